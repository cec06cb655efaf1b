"""Everything that can go wrong in storage, each with a sentence for the person.

    StorageError
    ├── DatabaseUnusable     the database file cannot be opened, read or written
    │   ├── DatabaseBusy     another program holds its lock
    │   └── DatabaseDamaged  its file does not hold what was written
    ├── DiskFull             there is no room left for a row or a picture
    ├── FolderUnusable       the data folder or a file in it cannot be read or written
    ├── FolderInUse          another process works on the same data folder
    ├── JobUnreadable        a job's row does not say what this version needs to know
    ├── BackupRefused        a backup or a restore that would harm something, or cannot be whole
    └── PictureMissing       a picture's file is gone
        └── PictureDamaged   a picture's file is there, but holds other bytes

`str(error)` is always one sentence that says what is wrong and what to do.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path
from typing import Final


class StorageError(Exception):
    """The root of this package's errors; its text is fit for the operator."""


class DatabaseUnusable(StorageError):
    """The database at `path` cannot be used; `reason` ends the sentence that begins with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The database {path} {reason}.")
        self.path = path
        self.reason = reason


class DatabaseBusy(DatabaseUnusable):
    """Another program has locked the database at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "is locked by another program; close that program and try again")


class DatabaseDamaged(DatabaseUnusable):
    """The database at `path` is damaged; `fault` is what was met, in SQLite's words."""

    def __init__(self, path: Path, fault: str = "") -> None:
        what = f"is damaged ({fault})" if fault else "is damaged"
        super().__init__(
            path,
            f"{what}; stop the bot and run `imagine-bot restore` with your backup, or move this "
            "file away to start without its jobs",
        )
        self.fault = fault


class BackupRefused(StorageError):
    """A copy is not made; the sentence says why and what to do."""


class DiskFull(StorageError):
    """There is no room left where `path` lies, or only `free` bytes."""

    def __init__(self, path: Path, free: int | None = None) -> None:
        state = "is full" if free is None else f"has only {free // 2**20} MB left"
        super().__init__(f"The disk that holds {path} {state}; free some space and try again.")
        self.path = path
        self.free = free


class FolderUnusable(StorageError):
    """The file system refuses to read or write `path`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be used ({reason}); let the bot's user read and write there, "
            f"or choose another folder with --data."
        )
        self.path = path
        self.reason = reason


class FolderInUse(StorageError):
    """Another process, `process` if it is known, holds the data folder."""

    def __init__(self, folder: Path, process: int | None) -> None:
        which = "" if process is None else f" (process {process})"
        super().__init__(
            f"{folder} is in use by another Imagine Bot{which}; "
            f"stop it or choose another folder with --data."
        )
        self.folder = folder
        self.process = process


class JobUnreadable(StorageError):
    """The row of a job cannot be read back; `reason` says what is wrong with it."""

    def __init__(self, job_id: int, reason: str) -> None:
        super().__init__(
            f"Job {job_id} cannot be read back ({reason.rstrip('.')}); another version of Imagine "
            "Bot may have written it, so upgrade, or ask for it again."
        )


class PictureMissing(StorageError):
    """The file of a picture is not there."""

    def __init__(self, sha256: str, fault: str = "is missing") -> None:
        super().__init__(
            f"The picture {sha256[:12]} {fault} in the pictures folder; "
            f"restore it from a backup or make it again."
        )
        self.sha256 = sha256


class PictureDamaged(PictureMissing):
    """The file of a picture holds other bytes than were written."""

    def __init__(self, sha256: str) -> None:
        super().__init__(sha256, "is damaged")


class SourceGone(StorageError):
    """The picture that a job starts from is not kept any more."""

    def __init__(self, job_id: int) -> None:
        super().__init__(
            f"The picture that job {job_id} starts from is not kept any more; send it again."
        )


# What goes by itself, or when the operator has done something: it need not end a job.
PASSING: Final = (DiskFull, DatabaseBusy)
# The same of what keeps pictures from being written, whose folder can be fixed.
UNWRITABLE: Final = (*PASSING, FolderUnusable)

_ROOM_MIN: Final = 64 * 2**10
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def from_os_error(path: Path, error: OSError) -> StorageError:
    """Return what an error of the file system at `path` means to the operator."""
    if error.errno in _NO_ROOM:
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


# What Python's module says of text that is none: SQLite itself does not look.
_NO_TEXT: Final = "Could not decode to UTF-8"

# What SQLite calls a disk without room for its shared memory, or for a file's name.
_MAYBE_FULL: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _ROOM_MIN
    except OSError:
        return False


def from_sqlite_error(path: Path, error: sqlite3.Error) -> StorageError:
    """Return what an error of SQLite on the database at `path` means to the operator."""
    # The low byte is the error, the rest its details; the module's own errors carry no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code in _MAYBE_FULL and _is_full(path)):
        return DiskFull(path)
    if code in _BUSY:
        return DatabaseBusy(path)
    if code == sqlite3.SQLITE_CORRUPT or str(error).startswith(_NO_TEXT):
        return DatabaseDamaged(path)
    if reason := _REASONS.get(code):
        return DatabaseUnusable(path, reason)
    return StorageError(
        f"The database {path} refused a statement ({error}); please report this as a bug."
    )
