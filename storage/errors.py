"""The errors of storage, each with a sentence for the operator or the member.

    StorageError
    ├── DatabaseUnusable     the database cannot be opened, read or written
    │   ├── DatabaseBusy     another program has locked the database
    │   └── DatabaseDamaged  the database file is damaged
    ├── DiskFull             the disk has no space for a row or a picture
    ├── FolderUnusable       the data folder or a file in it cannot be read or written
    ├── FolderInUse          another process uses the data folder
    ├── JobUnreadable        the row of a job cannot be read by this version
    ├── BackupRefused        a backup or a restore would overwrite files or be incomplete
    ├── SourceGone           the picture that a job starts from was removed
    └── PictureMissing       the file of a picture does not exist
        └── PictureDamaged   the file of a picture holds other bytes

`str(error)` is always one sentence that says what is wrong and what to do.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path
from typing import Final


class StorageError(Exception):
    """The base class; its text is for the operator."""


class DatabaseUnusable(StorageError):
    """The database at `path` cannot be used; `reason` is the predicate of the sentence."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The database {path} {reason}.")
        self.path = path
        self.reason = reason


class DatabaseBusy(DatabaseUnusable):
    """Another program has locked the database at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "is locked by another program; close that program and try again")


class DatabaseDamaged(DatabaseUnusable):
    """The database at `path` is damaged; `fault` is the message of SQLite."""

    def __init__(self, path: Path, fault: str = "") -> None:
        what = f"is damaged ({fault})" if fault else "is damaged"
        super().__init__(
            path,
            f"{what}; stop the bot and run `imagine-bot restore` with your backup, or move this "
            "file away to start without its jobs",
        )
        self.fault = fault


class BackupRefused(StorageError):
    """A backup or a restore is refused; the text says why and what to do."""


class DiskFull(StorageError):
    """The disk that holds `path` is full, or has only `free` bytes left."""

    def __init__(self, path: Path, free: int | None = None) -> None:
        state = "is full" if free is None else f"has only {free // 2**20} MB left"
        super().__init__(f"The disk that holds {path} {state}; free some space and try again.")
        self.path = path
        self.free = free


class FolderUnusable(StorageError):
    """The file system does not read or write `path`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be used ({reason}); let the bot's user read and write there, "
            f"or choose another folder with --data."
        )
        self.path = path
        self.reason = reason


class FolderInUse(StorageError):
    """Another process uses the data folder; `process` is its id, if known."""

    def __init__(self, folder: Path, process: int | None) -> None:
        which = "" if process is None else f" (process {process})"
        super().__init__(
            f"{folder} is in use by another Imagine Bot{which}; "
            f"stop it or choose another folder with --data."
        )
        self.folder = folder
        self.process = process


class JobUnreadable(StorageError):
    """The row of a job cannot be read; `reason` says why."""

    def __init__(self, job_id: int, reason: str) -> None:
        super().__init__(
            f"Job {job_id} cannot be read back ({reason.rstrip('.')}); another version of Imagine "
            "Bot may have written it, so upgrade, or ask for it again."
        )


class PictureMissing(StorageError):
    """The file of a picture does not exist."""

    def __init__(self, sha256: str, fault: str = "is missing") -> None:
        super().__init__(
            f"The picture {sha256[:12]} {fault} in the pictures folder; "
            f"restore it from a backup or make it again."
        )
        self.sha256 = sha256


class PictureDamaged(PictureMissing):
    """The bytes of a picture file have changed."""

    def __init__(self, sha256: str) -> None:
        super().__init__(sha256, "is damaged")


class SourceGone(StorageError):
    """The picture that a job starts from was removed."""

    def __init__(self, job_id: int) -> None:
        super().__init__(
            f"The picture that job {job_id} starts from is not kept any more; send it again."
        )


# Errors that pass by themselves, or when the operator acts. Jobs wait for that and do not fail.
PASSING: Final = (DiskFull, DatabaseBusy)
# The same for writing pictures: the operator can repair the folder.
UNWRITABLE: Final = (*PASSING, FolderUnusable)

_FREE_BYTES_MIN: Final = 64 * 2**10
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def from_os_error(path: Path, error: OSError) -> StorageError:
    """Return the StorageError for an error of the file system at `path`."""
    if error.errno in _NO_SPACE:
        return DiskFull(path)
    if error.errno == errno.EEXIST:
        return FolderUnusable(path, "it is not a folder")
    return FolderUnusable(path, (error.strerror or str(error)).lower())


_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_REASONS: Final = {
    sqlite3.SQLITE_NOTADB: (
        "is not a database, or its beginning is damaged; run `imagine-bot restore` with your "
        "backup, move it away, or choose another folder with --data"
    ),
    sqlite3.SQLITE_READONLY: (
        "cannot be written; let the bot's user write to it and its folder, "
        "or choose another folder with --data"
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened; let the bot's user read and write it and its folder, "
        "or choose another folder with --data"
    ),
    sqlite3.SQLITE_IOERR: "cannot be read or written; check the disk and its connection",
}


# The message of Python's sqlite3 module for invalid text; SQLite itself does not check text.
_INVALID_TEXT: Final = "Could not decode to UTF-8"

# SQLite reports these if the disk has no space for the shared memory or for a new file.
_MAYBE_FULL: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _FREE_BYTES_MIN
    except OSError:
        return False


def from_sqlite_error(path: Path, error: sqlite3.Error) -> StorageError:
    """Return the StorageError for an error of SQLite on the database at `path`."""
    # The low byte is the primary code. Errors of Python's sqlite3 module itself have no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code in _MAYBE_FULL and _is_full(path)):
        return DiskFull(path)
    if code in _BUSY:
        return DatabaseBusy(path)
    if code == sqlite3.SQLITE_CORRUPT or str(error).startswith(_INVALID_TEXT):
        return DatabaseDamaged(path)
    if reason := _REASONS.get(code):
        return DatabaseUnusable(path, reason)
    return StorageError(
        f"The database {path} refused a statement ({error}); please report this as a bug."
    )
