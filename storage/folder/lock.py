"""The lock of a data folder: one process at a time works in the folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FolderInUse, from_os_error
from .layout import LOCK_NAME


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder; create the folder if it does not exist.

    The kernel releases the lock when the process dies, however it dies.

    Raises:
        FolderInUse: another process holds the lock.
        FolderUnusable: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise from_os_error(folder, error) from error
    try:
        _lock(folder, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        raise FolderInUse(folder, _holder(descriptor)) from error
    except OSError as error:
        raise from_os_error(folder, error) from error


def _holder(descriptor: int) -> int | None:
    # The file is empty for an instant after the other process took the lock.
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else None
