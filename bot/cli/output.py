"""Files in an output folder. Other users may write there, so planted links are never followed."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..errors import BotError

_NAMES: Final = 100
_FRESH: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# The errors of file systems without hard links.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_ROOT: Final = 0


class OutputFolder:
    """A folder that files are written to; made by `open_folder`.

    The folder is held open, so nobody can replace it or a part of its path.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._folder = descriptor

    def write(self, name: str, data: bytes) -> Path:
        """Write a complete file, or none, and return its path.

        Existing files are never overwritten, and links never followed. A file with the same bytes
        counts as written. If another file is called `name`, the new one is called `name-2`, and so
        on.

        Raises:
            BotError: the file cannot be written.
        """
        unfinished = f".{secrets.token_hex(8)}.unfinished"
        try:
            self._fill(unfinished, data)
            try:
                return self.path / self._settle(unfinished, name, data)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=self._folder)
        except OSError as error:
            raise BotError(
                f"{self.path / name} cannot be written ({error.strerror}); name another folder "
                "with --out."
            ) from error

    def probe(self) -> None:
        """Create a file and remove it.

        Raises:
            OSError: no file can be made here.
        """
        name = f".{secrets.token_hex(8)}.unfinished"
        self._fill(name, b"")
        os.unlink(name, dir_fd=self._folder)

    def _fill(self, name: str, data: bytes) -> None:
        descriptor = os.open(name, _FRESH, 0o666, dir_fd=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError:
            os.unlink(name, dir_fd=self._folder)
            raise

    def _settle(self, unfinished: str, wanted: str, data: bytes) -> str:
        """Rename a finished file to the first free name; return that name."""
        stem, dot, suffix = wanted.rpartition(".")
        for number in range(1, _NAMES + 1):
            name = wanted if number == 1 else f"{stem}-{number}{dot}{suffix}"
            if self._holds(name, data) or self._place(unfinished, name):
                return name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _place(self, unfinished: str, name: str) -> bool:
        try:
            os.link(
                unfinished,
                name,
                src_dir_fd=self._folder,
                dst_dir_fd=self._folder,
                follow_symlinks=False,
            )
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._rename(unfinished, name)
        return True

    def _rename(self, unfinished: str, name: str) -> bool:
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            return False
        os.rename(unfinished, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        return True

    def _holds(self, name: str, data: bytes) -> bool:
        """Return whether a regular file called `name` has exactly these bytes."""
        try:
            descriptor = os.open(name, _LOOK, dir_fd=self._folder)
        except OSError:
            return False
        try:
            kind = os.fstat(descriptor)
            if not stat.S_ISREG(kind.st_mode) or kind.st_size != len(data):
                return False
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read() == data
        finally:
            os.close(descriptor)


@contextmanager
def open_folder(path: Path) -> Iterator[OutputFolder]:
    """Create the folder `path` if it is missing, check that it is writable, and yield it.

    Raises:
        BotError: the folder cannot be used, or its path has a link that another user made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_links(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BotError(
            f"{path} is no folder and cannot be created ({error.strerror}); name another with "
            "--out."
        ) from error
    try:
        folder = OutputFolder(path, descriptor)
        try:
            # A failure should come before the picture is made.
            folder.probe()
        except OSError as error:
            raise BotError(
                f"Nothing can be written to {path} ({error.strerror}); name another with --out."
            ) from error
        yield folder
    finally:
        os.close(descriptor)


def _check_links(path: Path) -> None:
    """Refuse a path with a link that neither this user nor the superuser made."""
    whole = path.absolute()
    for place in (whole, *whole.parents):
        state = place.lstat()
        if stat.S_ISLNK(state.st_mode) and state.st_uid not in (_ROOT, os.geteuid()):
            raise BotError(
                f"{place} is a link that another user made; name another folder with --out."
            )
