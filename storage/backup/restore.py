"""Restores a backup into the data folder."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..errors import BackupRefused
from ..folder.layout import DATABASE_NAME, LOCK_NAME, PICTURES_NAME, RESTORING_NAME
from ..folder.lock import locked
from ..sqlite.integrity import check_integrity
from ..sqlite.readonly import opened_readonly
from .copying import (
    MARK_NAME,
    Copied,
    change,
    copy_file,
    copy_pictures,
    mode_of,
    os_errors,
    put_in_place,
    refuse_overlap,
    sync,
)

_OURS: Final = (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", PICTURES_NAME)
# Jobs accepted after the backup may have used the next ids, and their messages still exist. So a
# restore skips these ids.
_IDS_SKIPPED: Final = 100_000


def restore(backup: Path, data: Path, *, replace: bool = False) -> Copied:
    """Put a backup into the data folder, while no bot uses the folder.

    The replaced files are moved into a folder of their own. The bot refuses to start after an
    interrupted restore; the next restore completes it.

    Raises:
        BackupRefused: `backup` is not a complete backup, the disk has too little space, or the
            data folder is not empty and `replace` is not set.
        FolderInUse: a bot uses the data folder.
        StorageError: the backup is damaged, or a folder cannot be read or written.
    """
    backup, data = backup.absolute(), data.absolute()
    refuse_overlap(data, backup)
    if not (backup / MARK_NAME).is_file() or not (backup / DATABASE_NAME).is_file():
        raise BackupRefused(
            f"{backup} is not a complete backup; name a folder of `imagine-bot backup`."
        )
    with opened_readonly(backup / DATABASE_NAME) as db:
        check_integrity(backup / DATABASE_NAME, db)
    owner = _owner_of(data)
    with os_errors(data), locked(data):
        staging = data / RESTORING_NAME
        _refuse_to_replace(data, staging, replace=replace)
        return _replace(backup, data, staging, owner)


def _refuse_to_replace(data: Path, staging: Path, *, replace: bool) -> None:
    found = [name for name in _OURS if (data / name).exists()]
    if found and not replace and not staging.exists():
        raise BackupRefused(
            f"{data} holds {' and '.join(found)}; use --replace to move them into a folder inside "
            "of it. Nothing is deleted."
        )


def _replace(backup: Path, data: Path, staging: Path, owner: tuple[int, int]) -> Copied:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=mode_of(backup))
    database = staging / DATABASE_NAME
    copy_file(backup / DATABASE_NAME, database)
    pictures, added, lost = copy_pictures(database, backup, staging)
    change(database, "UPDATE sqlite_sequence SET seq = seq + ?", _IDS_SKIPPED)
    (staging / PICTURES_NAME).mkdir(mode=mode_of(backup), exist_ok=True)
    _change_owner(staging, owner)
    sync(staging)
    aside = _move_aside(data, owner)
    (staging / PICTURES_NAME).rename(data / PICTURES_NAME)
    put_in_place(database, data / DATABASE_NAME)
    staging.rmdir()
    _change_owner(data / LOCK_NAME, owner)
    sync(data)
    return Copied(pictures, added, lost, aside)


def _move_aside(data: Path, owner: tuple[int, int]) -> Path | None:
    found = [name for name in _OURS if (data / name).exists()]
    if not found:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    aside = data / f"before-restore-{stamp}"
    aside.mkdir(mode=0o700)
    os.chown(aside, *owner)
    for name in found:
        (data / name).rename(aside / name)
    sync(aside)
    sync(data)
    return aside


def _owner_of(folder: Path) -> tuple[int, int]:
    """Return the owner of a folder, or of its nearest parent that exists."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    status = existing.stat()
    return status.st_uid, status.st_gid


def _change_owner(place: Path, owner: tuple[int, int]) -> None:
    """Make the owner of the data folder the owner of files that the superuser has restored."""
    if os.geteuid() != 0:
        return
    for path in (place, *(place.rglob("*") if place.is_dir() else ())):
        os.chown(path, *owner, follow_symlinks=False)
