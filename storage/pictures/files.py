"""Picture files, each named by the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from generation.values.pixels import Pixels

from ..errors import PictureDamaged, PictureMissing, from_os_error
from .plain_png import decode_png

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class NewFile:
    """The bytes of a PNG file to write, and the hash of its pixels."""

    data: bytes
    pixels_sha256: str


class PictureFiles:
    """The picture files below `folder`, each at `ab/abcdef….png`.

    The methods block on the disk: do not call them in the event loop. A file that exists is
    complete: it gets its name only when all of its bytes are on disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return the path of the file with this hash, whether it exists or not.

        Raises:
            ValueError: `sha256` is not 64 hex digits in lower case.
        """
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        return self.folder / sha256[:2] / f"{sha256}.png"

    def write(self, data: bytes) -> str:
        """Write the bytes unless their file exists, and return their SHA-256.

        Raises:
            DiskFull: the disk has no space left.
            FolderUnusable: the folder cannot be written.
        """
        sha256 = name_of(data)
        path = self.path(sha256)
        try:
            if not path.exists() or path.stat().st_size != len(data):
                self._make_folder(path.parent)
                _write_durably(path, data)
        except OSError as error:
            raise from_os_error(self.folder, error) from error
        return sha256

    def _make_folder(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
            sync_folder(self.folder.parent)

    def read(self, sha256: str) -> bytes:
        """Return the bytes of the file.

        Raises:
            PictureMissing: the file does not exist.
            PictureDamaged: the bytes of the file have another hash.
            FolderUnusable: the file cannot be read.
        """
        path = self.path(sha256)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise PictureMissing(sha256) from error
        except OSError as error:
            raise from_os_error(path, error) from error
        if name_of(data) != sha256:
            raise PictureDamaged(sha256)
        return data

    def read_pixels(self, sha256: str) -> Pixels:
        """Return the pixels of the file.

        Raises:
            PictureMissing: the file does not exist, is damaged, or is not a PNG file.
            FolderUnusable: the file cannot be read.
        """
        try:
            return decode_png(self.read(sha256))
        except ValueError as error:
            raise PictureDamaged(sha256) from error

    def remove(self, sha256: str) -> None:
        """Remove the file; do nothing if it does not exist.

        Raises:
            FolderUnusable: the folder cannot be written.
        """
        path = self.path(sha256)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(path, error) from error

    def sync_names(self, names: Iterable[str]) -> None:
        """Sync the folders of these files, so that creations and removals are on disk.

        Raises:
            FolderUnusable: a folder cannot be synced.
        """
        for folder in {self.path(name).parent for name in names}:
            try:
                if folder.exists():
                    sync_folder(folder)
            except OSError as error:
                raise from_os_error(folder, error) from error

    def remove_half_written(self) -> None:
        """Remove the temporary files of writes that a crash interrupted; create the folder.

        Only for the start: no write may be under way.

        Raises:
            FolderUnusable: the folder cannot be created or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob("??/*.tmp"):
                leftover.unlink()
        except OSError as error:
            raise from_os_error(self.folder, error) from error


def name_of(data: bytes) -> str:
    """Return the SHA-256 of the bytes, which is the name of their file."""
    return hashlib.sha256(data).hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the file names of a folder on disk; syncing a file does not do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
