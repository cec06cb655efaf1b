"""A checkpoint in one .safetensors file, converted to a folder like that of any other model.

A file is converted once. The folder is in the layout of diffusers, in the cache of the hub's
client, and is named by the hash of the file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import cached_assets_path
from huggingface_hub.constants import HF_ASSETS_CACHE
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # has no __all__

from ..errors import ModelError, ModelNotHere
from .checkpoint import Checkpoint, SingleFile, read_checkpoint
from .hashing import file_sha256

_UNFINISHED: Final = "unfinished-"
# CLIP's vocabulary is in the package once, among these configs.
_VOCABULARY: Final = ("clip", ("vocab.json", "merges.txt"))
# The library, namespace and folder of `cached_assets_path`.
_NAMES: Final = ("imagine-bot", "single-files", "default")
_SHELF: Final = Path(HF_ASSETS_CACHE).expanduser().resolve().joinpath(*_NAMES)


def open_single_file(file: Path, kinds: Sequence[SingleFile], *, only_look: bool = False) -> Path:
    """Return the folder of the checkpoint `file`, which is converted now if it was not before.

    The checkpoint is one of `kinds`. Its marks, for example that it predicts v, are in the folder's
    configs. With `only_look` nothing is converted, and no file is written.

    Raises:
        ModelNotHere: with `only_look`, the checkpoint was not converted before.
        ModelError: the file does not exist, or is no complete checkpoint of these kinds.
    """
    try:
        is_there = file.is_file()
    except OSError:
        # For example, the name is too long.
        is_there = False
    if not is_there:
        raise ModelError(f"There is no file {file}; check the spelling of the model.")
    checkpoint = read_checkpoint(file, kinds)
    digest = file_sha256(file)
    try:
        # `cached_assets_path` makes the folder.
        shelf = _SHELF if only_look else cached_assets_path(*_NAMES)
        folder = shelf / f"{digest}{checkpoint.differences}"
        if only_look and not folder.is_dir():
            raise ModelNotHere(
                f"The model {file} is a whole checkpoint, which has to be converted; imagine-bot "
                "models pull converts it, and the bot converts its default model when it starts."
            )
        if not folder.is_dir():
            with _alone(shelf):
                # Another process may have converted the file meanwhile.
                if not folder.is_dir():
                    _convert(checkpoint, folder)
    except OSError as error:
        raise ModelError(
            f"The model {file} cannot be converted ({error.strerror or error}); it takes as much "
            "room again in the cache folder, which HF_HOME can move to another disk."
        ) from error
    return folder


def bundled_configs(name: str) -> Path:
    """Return the folder in this package with the configs and the tokenizers of `name`."""
    return Path(__file__).parents[1] / "configs" / name


@contextmanager
def whole_configs(name: str) -> Iterator[Path]:
    """Yield a folder with the configs of `name`, each tokenizer with CLIP's vocabulary."""
    home, files = _VOCABULARY
    with tempfile.TemporaryDirectory(prefix="imagine-bot-configs-") as made:
        folder = Path(shutil.copytree(bundled_configs(name), made, dirs_exist_ok=True))
        for tokenizer in folder.glob("tokenizer*"):
            for file in files:
                if not (tokenizer / "tokenizer.json").exists() and not (tokenizer / file).exists():
                    shutil.copyfile(bundled_configs(home) / file, tokenizer / file)
        yield folder


@contextmanager
def _alone(shelf: Path) -> Iterator[None]:
    """Wait until no other process converts, and remove unfinished folders of killed processes.

    The kernel releases the lock when its process dies. So an unfinished folder that exists under
    this lock belongs to no process.
    """
    with WeakFileLock(shelf.with_suffix(".lock")):
        for left in shelf.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _convert(checkpoint: Checkpoint, folder: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        # This loads torch, which a converted file does not need.
        from .conversion import convert  # noqa: PLC0415

        with whole_configs(checkpoint.configs) as configs:
            convert(checkpoint, configs, unfinished)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
