"""The hash of the files that are loaded of a model."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from ..errors import ModelError
from .files import DEFAULTS, EMOJI, ModelFiles, list_folder, select_files
from .layout import Layout


def weights_sha256(folder: Path, layout: Layout, *, also: Sequence[str] = ()) -> str:
    """Return one SHA-256 over a model's weights, tokenizers and configs, as hex digits.

    The hash depends on the names and contents of the files that are loaded, and on no other file
    in the folder. An unchanged file is read only once in a process. `also` holds what else the
    weights depend on, a line each.

    Raises:
        ModelError: the model is not complete or cannot be read.
    """
    files = select_files(list_folder(folder), layout, f"The model in {folder}")
    lines = [*_digest_lines(folder, files), *(f"{line}\n" for line in also)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest_lines(folder: Path, files: ModelFiles) -> Iterator[str]:
    for name in files.names:
        # A recipe holds its own steps and the names of its emoji, so these files change no picture.
        if name not in (DEFAULTS, EMOJI):
            yield f"{name}\0{file_sha256(folder / name)}\n"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits; an unchanged file is read only once.

    Raises:
        ModelError: the file cannot be read.
    """
    path = path.resolve()
    try:
        stat = path.stat()
        # One at a time: otherwise engines that start together read the same gigabytes.
        with _hashing:
            return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}); check that the file may be read."
        ) from error


_hashing = threading.Lock()


@lru_cache(maxsize=1_024)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    # Size and time are keys of the cache: a changed file is another entry.
    del size, modified_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
