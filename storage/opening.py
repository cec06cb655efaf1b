"""From a data folder to a store that is ready, and that nobody else works on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from .database import Database
from .errors import BackupRefused, DatabaseDamaged, FolderInUse, from_os_error
from .jobs import JobStore
from .pictures.files import PictureFiles

DATABASE_NAME: Final = "imagine-bot.db"
LOCK_NAME: Final = "imagine-bot.lock"
PICTURES_NAME: Final = "pictures"
# Where a restore gathers what it puts into place at its end.
RESTORING_NAME: Final = "restoring"


@asynccontextmanager
async def open_storage(data_dir: Path) -> AsyncIterator[JobStore]:
    """Open the store in a data folder, which is made if need be, for this process alone.

    Raises:
        FolderInUse: another bot works on it.
        StorageError: the folder or the database cannot be used; the sentence says why.
    """
    pictures = PictureFiles(data_dir / PICTURES_NAME)
    with locked(data_dir):
        _refuse_half_restored(data_dir)
        refuse_vanished(data_dir)
        async with Database(data_dir / DATABASE_NAME) as db:
            store = JobStore(db, pictures)
            await store.tidy()
            try:
                yield store
            finally:
                await store.close()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if need be, for this process alone.

    The kernel lets go of it when the process dies, however it dies.

    Raises:
        FolderInUse: another process holds it.
        FolderUnusable: it cannot be made or written.
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


def refuse_vanished(folder: Path) -> None:
    """Check that no database stood here that is gone or empty: SQLite would begin a new one.

    Raises:
        DatabaseDamaged: its log or its pictures are there.
    """
    path = folder / DATABASE_NAME
    try:
        log = path.with_name(f"{DATABASE_NAME}-wal")
        has_log = log.exists() and log.stat().st_size > 0
        if not path.exists():
            if has_log:
                raise DatabaseDamaged(path, f"it is gone, but {log.name} is there; move that too")
        elif not path.stat().st_size and (has_log or _has_pictures(folder)):
            raise DatabaseDamaged(path, "it is empty")
    except OSError as error:
        raise from_os_error(folder, error) from error


def _has_pictures(folder: Path) -> bool:
    return next((folder / PICTURES_NAME).glob("??/*.png"), None) is not None


def _refuse_half_restored(folder: Path) -> None:
    if (folder / RESTORING_NAME).exists():
        raise BackupRefused(
            f"A restore into {folder} was cut short; run `imagine-bot restore` once more, which "
            "takes it up again."
        )


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
    # The holder may be about to write its number.
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else None
