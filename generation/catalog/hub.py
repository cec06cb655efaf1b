"""Models from the Hugging Face hub: downloaded once, then found without the network."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from huggingface_hub import (
    HfApi,
    errors,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # has no __all__
    WeakFileLock,
    tqdm,
)

from ..errors import ModelError, ModelNotHere
from .files import INDEX, DownloadProgress, list_folder, require_index, select_files
from .layout import Layout

log = logging.getLogger(__name__)

# Called with a progress bar, its unit, and how far it has come.
_Moved = Callable[[object, str, float], None]

_ANSWER_SECONDS: Final = 15.0
_LOCK_SECONDS: Final = 0.1
# The base class of the HTTP client's errors, whichever client this version of the hub uses.
_HTTPError: Final = errors.HTTPError  # type: ignore[attr-defined]  # has no __all__


def download(
    name: str,
    *,
    layout_of: Callable[[Path], Layout],
    check: Callable[[Path], object],
    on_download: Callable[[DownloadProgress], None] | None = None,
    token: str | None = None,
) -> Path:
    """Return the folder with the newest version of the hub model `name`, downloaded if needed.

    `layout_of` returns the layout of the model in a folder that holds `model_index.json`. Only
    files that the model needs are downloaded, and the weights only after `check` has accepted the
    folder with the configs. An interrupted transfer continues where it stopped; after a restart
    of the program finished files are kept. If the download fails, a complete version in the cache
    is used, and the log says what failed.

    Raises:
        ModelError: the cache has no complete version, and the model does not exist, may not be
            downloaded, or cannot be downloaded.
    """

    def newest() -> Path:
        _sweep(name)
        revision, listed = _listing(name, token)
        require_index(listed, f"The model {name}")
        layout = layout_of(_fetch(name, [INDEX], token))
        files = select_files(listed, layout, f"The model {name}")
        check(_fetch(name, files.configs, token))
        needed = {n: listed[n].size or 0 for n in files.names}
        here = {n for n in needed if _is_here(name, listed[n], revision)}
        tracker = _Tracker(name, needed, here, on_download)
        _check_space(name, tracker.total - tracker.done)
        return _fetch(name, files.names, token, tracker.moved)

    return _newest_or_cached(name, layout_of, newest)


def find(name: str, *, layout_of: Callable[[Path], Layout], token: str | None = None) -> Path:
    """Return the folder with the newest complete version of a hub model in the cache.

    `layout_of` is as in `download`. The hub is asked only if the cache has no version. Then
    `model_index.json` is downloaded to a temporary folder, and no other file is written.

    Raises:
        ModelNotHere: the hub has the model; the sentence says how much has to be downloaded.
        ModelError: the hub has no such model, or none that can be used, or does not answer.
    """
    folder = _cached(name, layout_of)
    if folder is not None:
        return folder
    try:
        _, listed = _listing(name, token)
        require_index(listed, f"The model {name}")
        with tempfile.TemporaryDirectory(prefix="imagine-bot-index-") as made:
            hf_hub_download(name, INDEX, local_dir=made, token=token)
            layout = layout_of(Path(made))
        files = select_files(listed, layout, f"The model {name}")
    except (_HTTPError, OSError, RuntimeError) as error:
        raise _explain(name, error) from error
    size = sum(listed[file].size or 0 for file in files.names)
    raise ModelNotHere(
        f"The model {name} is not on this machine yet ({size / 1e6:,.0f} MB); imagine-bot models "
        "pull downloads it, and the bot downloads its default model when it starts."
    )


def _newest_or_cached(
    name: str, layout_of: Callable[[Path], Layout], newest: Callable[[], Path]
) -> Path:
    cached: Path | None = None
    try:
        # A download changes which version the cache calls the newest, so this comes first.
        cached = _cached(name, layout_of)
        return newest()
    # The Rust client of the hub's newer storage raises RuntimeError.
    except (ModelError, _HTTPError, OSError, RuntimeError) as error:
        if cached is not None:
            log.warning(
                "The copy of %s on this machine is used, as it cannot be brought up to date. %s",
                name,
                _explain_known(name, error) or f"The hub does not answer ({_short(error)}).",
            )
            return cached
        if isinstance(error, ModelError):
            raise
        raise _explain(name, error) from error


def _listing(name: str, token: str | None) -> tuple[str, dict[str, RepoSibling]]:
    """Return the newest revision of a hub model, and its files by name."""
    info = HfApi().model_info(name, files_metadata=True, timeout=_ANSWER_SECONDS, token=token)
    return str(info.sha), {file.rfilename: file for file in info.siblings or ()}


def _fetch(
    name: str, files: Sequence[str], token: str | None, moved: _Moved = lambda *_: None
) -> Path:
    return Path(
        snapshot_download(
            name, allow_patterns=list(files), token=token, tqdm_class=_bar_class(moved)
        )
    )


def _is_here(name: str, file: RepoSibling, revision: str) -> bool:
    if isinstance(try_to_load_from_cache(name, file.rfilename, revision=revision), str):
        return True
    # A file that another version has too is not downloaded again: the client only links it.
    etag = file.lfs.sha256 if file.lfs else file.blob_id
    return etag is not None and (_store(name) / "blobs" / etag).is_file()


def _store(name: str) -> Path:
    """Return the model's folder in the cache: `blobs` by ETag, `snapshots` by version, `refs`.

    The layout is documented: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """
    return Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _cached(name: str, layout_of: Callable[[Path], Layout]) -> Path | None:
    """Return the newest version in the cache that has all files of a model.

    The version that `refs/main` names comes first. It may be incomplete, since an update changes
    `refs/main` before it downloads a file. Versions of other branches are other models.
    """
    refs = _store(name) / "refs"
    named = {path.relative_to(refs): path.read_text() for path in refs.rglob("*") if path.is_file()}
    main = named.pop(Path("main"), "")
    others = {*named.values()} - {main}
    snapshots = [path for path in (_store(name) / "snapshots").glob("*") if path.name not in others]
    snapshots.sort(key=lambda path: (path.name == main, path.stat().st_mtime), reverse=True)
    for folder in snapshots:
        with suppress(ModelError):
            select_files(list_folder(folder), layout_of(folder), f"The model {name}")
            return folder
    return None


def _sweep(name: str) -> None:
    """Remove files that a killed process left half downloaded.

    The hub's client gives each such file a unique name and does not continue it. A process that
    downloads holds the lock of the blob, and the kernel releases the lock when the process dies. So
    a file whose lock is free belongs to no process. SIGTERM kills this process on purpose: the
    client's threads cannot be interrupted, so an orderly exit would wait for gigabytes.
    """
    store = _store(name)
    locks = store.parent / ".locks" / store.name
    for left in (store / "blobs").glob("*.*.incomplete"):
        etag = left.name.rsplit(".", 2)[0]
        # If another process holds the lock, a TimeoutError is raised, which is an OSError.
        with suppress(OSError), WeakFileLock(locks / f"{etag}.lock", timeout=_LOCK_SECONDS):
            left.unlink()


def _check_space(name: str, needed: int) -> None:
    cache = Path(HF_HUB_CACHE)
    while not cache.exists():
        cache = cache.parent
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise ModelError(
            f"The model {name} needs another {needed / 1e9:.1f} GB in {HF_HUB_CACHE} but only "
            f"{free / 1e9:.1f} GB are free; make room, or set HF_HOME to a folder on a larger disk."
        )


def _explain(name: str, error: Exception) -> ModelError:
    return _explain_known(name, error) or ModelError(
        f"The model {name} is not complete on this machine and the hub does not answer "
        f"({_short(error)}); check the connection and try again, finished files are kept."
    )


def _explain_known(name: str, error: Exception) -> ModelError | None:
    if isinstance(error, ModelError):
        return error
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"The model {name} asks for its licence to be accepted first; do so on its page at the "
            "hub and set HF_TOKEN to a token of that account."
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"There is no folder {name} and no model {name} on the hub for everybody; check the "
            "spelling, and set HF_TOKEN if the model is private."
        )
    if isinstance(error, HfHubHTTPError):
        return _explain_status(name, error.response.status_code)
    # Only errors of the operating system have a number; those of the hub's client have none.
    if isinstance(error, OSError) and error.errno is not None:
        return ModelError(
            f"The model {name} cannot be saved in {HF_HUB_CACHE} ({error.strerror}); make room "
            "there, or set HF_HOME to a folder that can be written."
        )
    return None


def _explain_status(name: str, status: int) -> ModelError:
    if status in {401, 403}:
        return ModelError(
            f"The hub refuses to hand out the model {name} (status {status}); check HF_TOKEN, and "
            "that its account may read the model."
        )
    return ModelError(
        f"The hub cannot hand out the model {name} at the moment (status {status}); try again "
        "in a few minutes."
    )


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:120]


class _Tracker:
    """Adds up the progress bars of one download, which several threads update."""

    def __init__(
        self,
        name: str,
        sizes: Mapping[str, int],
        here: set[str],
        report: Callable[[DownloadProgress], None] | None,
    ) -> None:
        self.total = sum(sizes.values())
        self.done = self._kept = sum(sizes[n] for n in here)
        self._name, self._files, self._report = name, len(sizes), report
        self._files_done = len(here)
        self._bytes: dict[object, float] = {}
        self._lock = threading.Lock()

    def moved(self, bar: object, unit: str, n: float) -> None:
        """Record that `bar` has come to `n` bytes or files, and report the sum."""
        with self._lock:
            if unit == "B":
                # One bar counts bytes from the network, the other bytes on disk.
                self._bytes[bar] = n
                self.done = min(self.total, self._kept + int(max(self._bytes.values())))
            else:
                self._files_done = max(self._files_done, int(n))
                if self._files_done == self._files:
                    self.done = self.total
            if self._report is not None:
                self._report(
                    DownloadProgress(
                        model=self._name,
                        done=self.done,
                        total=self.total,
                        files_done=self._files_done,
                        files=self._files,
                    )
                )


def _bar_class(moved: _Moved) -> type[Any]:
    class Bar(tqdm):
        """A progress bar that draws nothing and reports its progress."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # as tqdm itself
            self.n = kwargs.get("initial") or 0
            self._unit = kwargs.get("unit", "it")

        def update(self, n: float | None = 1) -> None:
            """Count `n` more bytes or files."""
            with self.get_lock():
                self.n += n or 0
                moved(id(self), self._unit, self.n)

    return Bar
