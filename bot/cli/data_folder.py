"""What `doctor` says of a data folder. It only looks: no file is made, written or locked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from storage.errors import StorageError
from storage.folder.layout import (
    DATABASE_NAME,
    LOCK_NAME,
    PICTURES_NAME,
    RESTORING_NAME,
    UNKNOWN_NAME,
    refuse_vanished,
)
from storage.pictures.files import PictureFiles
from storage.pictures.inventory import Inventory, take_inventory
from storage.sqlite.integrity import check_integrity
from storage.sqlite.readonly import looking
from storage.upkeep.orphans import KEPT_DAYS, quarantined

_READ_WRITE: Final = stat.S_IRUSR | stat.S_IWUSR


def look_at(data: Path) -> tuple[str, str]:
    """Return what is the matter with a data folder that is there, and the fix, "" if it is well.

    Raises:
        StorageError: the database is damaged or cannot be read.
    """
    if (data / RESTORING_NAME).exists():
        return f"a restore into {data} was cut short", "run `imagine-bot restore` once more"
    if refused := next(_unwritable(data), None):
        return "the data folder cannot be used", refused
    usable = f"{data} is in use by a running bot" if is_in_use(data) else f"{data} can be written"
    refuse_vanished(data)
    path = data / DATABASE_NAME
    if not path.exists():
        return usable, ""
    with looking(path) as db:
        check_integrity(path, db)
        found = take_inventory(db, PictureFiles(data / PICTURES_NAME))
    return _files(found, frozenset(quarantined(data)), usable)


def _files(found: Inventory, aside: frozenset[str], usable: str) -> tuple[str, str]:
    """Return what is the matter with the picture files, those `aside` in their own folder too."""
    missing = [sha256 for sha256 in found.missing if sha256 not in aside]
    text = f"{usable}; it is sound"
    if aside:
        text += (
            f"; {len(aside):,} picture files lie in {UNKNOWN_NAME}, and each is removed "
            f"{KEPT_DAYS} days after it was moved there"
        )
    if returning := len(found.missing) - len(missing):
        text += f"; {returning:,} of them are known and come back at the next start"
    if missing:
        return (
            f"{text}, but {len(missing):,} of {len(found.missing) + found.known:,} pictures "
            f"that it names are missing, {missing[0][:12]} among them",
            "copy them from the pictures folder of a backup",
        )
    if count := len(found.orphans):
        return (
            f"{text}, but it knows {found.known:,} picture files and {count:,} others are there, "
            f"which are moved to {UNKNOWN_NAME} at the next start",
            "if you put a new or an older database in place, put the right one back, or "
            "`imagine-bot restore --replace` a backup that has them; else there is nothing to do",
        )
    return text, ""


def is_in_use(data: Path) -> bool:
    """Tell whether the process that last held the folder is alive; the lock itself is not tried."""
    try:
        holder = int((data / LOCK_NAME).read_text("ascii"))
        os.kill(holder, 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return (data / f"{DATABASE_NAME}-wal").exists()


def _unwritable(data: Path) -> Iterator[str]:
    """Yield what the bot's user, who owns the folder, could not write."""
    try:
        if not data.is_dir():
            yield f"{data} is not a folder; name another with --data"
            return
        owner = data.stat().st_uid
        names = (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", LOCK_NAME)
        places = [data, data / PICTURES_NAME, data / UNKNOWN_NAME, *(data / name for name in names)]
        for place in places:
            if place.exists():
                yield from _unwritable_place(place, owner)
    except OSError as error:
        yield f"{data}: {(error.strerror or str(error)).lower()}; run doctor as the bot's user"


def _unwritable_place(place: Path, owner: int) -> Iterator[str]:
    status = place.stat()
    if os.geteuid() != 0:
        if not os.access(place, os.R_OK | os.W_OK | (os.X_OK if place.is_dir() else 0)):
            yield f"let the bot's user read and write {place}, or name another folder with --data"
    elif status.st_uid != owner:
        # The superuser may do anything, so it is looked at with the eyes of the folder's owner.
        yield (
            f"{place} belongs to user {status.st_uid} and the folder to user {owner}: chown it, "
            "or run doctor as the bot's user if that is well"
        )
    elif status.st_mode & _READ_WRITE != _READ_WRITE:
        yield f"let the bot's user read and write {place}"


def sentence(data: Path) -> tuple[str, str]:
    """Return what `look_at` does, with the sentence of an error as the fix."""
    try:
        return look_at(data)
    except StorageError as error:
        return "the data folder cannot be used", str(error)
