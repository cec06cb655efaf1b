"""Pictures as files that are named by the SHA-256 of their bytes."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from generation.values.pixels import Pixels

from ..errors import PictureDamaged, PictureMissing, from_os_error

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class NewFile:
    """The bytes of a PNG file that is to be written, and the hash of its pixels."""

    data: bytes
    pixels_sha256: str


class PictureFiles:
    """The picture files below `folder`, each at `ab/abcdef….png`.

    Its methods block on the disk, so they are not called from the event loop. A file that
    is there is whole: it gets its name only when all of its bytes are on disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return where the file with these bytes is, or would be.

        Raises:
            ValueError: `sha256` is not 64 hex digits in lower case.
        """
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        return self.folder / sha256[:2] / f"{sha256}.png"

    def write(self, data: bytes) -> str:
        """Put the bytes on disk unless they are there, and return their SHA-256.

        Raises:
            DiskFull: there is no room.
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
            PictureMissing: there is no such file.
            PictureDamaged: its bytes are not the ones that were written.
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

    def remove(self, sha256: str) -> None:
        """Remove the file; one that is not there is no error.

        Raises:
            FolderUnusable: the folder cannot be written.
        """
        path = self.path(sha256)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(path, error) from error

    def sync_names(self, names: Iterable[str]) -> None:
        """Put on disk which of the files with these SHA-256 are there.

        Raises:
            FolderUnusable: the disk refuses.
        """
        for folder in {self.path(name).parent for name in names}:
            try:
                if folder.exists():
                    sync_folder(folder)
            except OSError as error:
                raise from_os_error(folder, error) from error

    def sweep(self) -> None:
        """Remove what writes that a crash cut short have left, and make the folder if need be.

        Only the one process that writes here may call it, and only before it writes.

        Raises:
            FolderUnusable: the folder cannot be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob("??/*.tmp"):
                leftover.unlink()
        except OSError as error:
            raise from_os_error(self.folder, error) from error


def name_of(data: bytes) -> str:
    """Return the SHA-256 of the bytes, by which their file is named."""
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
    """Put the names in a folder on disk; syncing a file does not do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_png(pixels: Pixels) -> bytes:
    """Return a PNG file of the pixels, without loss and without metadata."""
    file = io.BytesIO()
    size = (pixels.width, pixels.height)
    Image.frombytes("RGB", size, pixels.rgb).save(file, format="PNG")
    return file.getvalue()


def from_png(data: bytes) -> Pixels:
    """Return the pixels of an RGB PNG file.

    Raises:
        ValueError: the bytes are no such file.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("the bytes are no PNG file") from error
    return Pixels(rgb.width, rgb.height, rgb.tobytes())
