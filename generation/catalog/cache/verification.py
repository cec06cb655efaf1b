"""Whether the files of a model are whole: by the hub's hashes, and by their own headers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import ModelError
from ..files import ModelFiles
from ..hashing import file_sha256
from ..headers import read_header
from ..memory.denoiser import GGUF
from ..memory.gguf import read_gguf_header

# The hub's client names a file in its cache by the ETag: the SHA-256 of a large file, and the id in
# git of a small one. See https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_GIT: Final = re.compile(r"[0-9a-f]{40}")
_SAFETENSORS: Final = frozenset({".safetensors", ".sft"})
_BLOBS: Final = "blobs"


@dataclass(frozen=True, slots=True)
class Verified:
    """How the files of a model were checked, and a sentence for each file that is not whole."""

    by_hash: int
    by_header: int
    faults: tuple[str, ...]


def verify(
    folder: Path,
    files: ModelFiles,
    on_file: Callable[[str], None] = lambda _: None,
    *,
    beside: Sequence[Path] = (),
) -> Verified:
    """Check the files of a model, all of which are read; `on_file` is called before each.

    `beside` are the files of the model that are not in `folder`. Files from the hub are compared
    with the hub's hashes. The headers of weights are compared with the sizes of the files.
    """
    by_hash = by_header = 0
    faults: list[str] = []
    paths = {name: folder / name for name in files.names}
    for name, path in (paths | {str(path): path for path in beside}).items():
        on_file(name)
        try:
            has_header = _read_header(path)
            known = _known_hash(path)
            if known is not None and known != _hash_like(known, path):
                faults.append(f"{name} has another hash than on the hub; the file is damaged.")
                continue
        except ModelError as error:
            faults.append(str(error))
            continue
        by_hash += known is not None
        by_header += known is None and has_header
    return Verified(by_hash, by_header, tuple(faults))


def _read_header(path: Path) -> bool:
    """Read the header of a file with weights; return False for any other file.

    Raises:
        ModelError: the header is broken, or the file is not as long as the header says.
    """
    if path.suffix.lower() == GGUF:
        read_gguf_header(path)
        return True
    if path.suffix.lower() in _SAFETENSORS:
        read_header(path)
        return True
    return False


def _known_hash(path: Path) -> str | None:
    """Return the hash that the hub states for a file in the cache; None for any other file."""
    real = path.resolve()
    is_cached = real.parent.name == _BLOBS
    is_hash = _SHA256.fullmatch(real.name) or _GIT.fullmatch(real.name)
    return real.name if is_cached and is_hash else None


def _hash_like(known: str, path: Path) -> str:
    if _SHA256.fullmatch(known):
        return file_sha256(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from error
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
