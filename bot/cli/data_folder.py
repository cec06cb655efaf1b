"""Checks of the data folder for `doctor`. They make, write and lock no file."""

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
from storage.sqlite.readonly import opened_readonly
from storage.upkeep.orphans import KEPT_DAYS, quarantined

_READ_WRITE: Final = stat.S_IRUSR | stat.S_IWUSR


def check(data: Path) -> tuple[str, str]:
    """Return the state of an existing data folder, and the fix; the fix is "" if all is well.

    Raises:
        StorageError: the database is damaged or cannot be read.
    """
    if (data / RESTORING_NAME).exists():
        return f"a restore into {data} was interrupted", "run `imagine-bot restore` again"
    if refused := next(_unwritable(data), None):
        return "the data folder cannot be used", refused
    usable = f"{data} is in use by a running bot" if is_in_use(data) else f"{data} can be written"
    refuse_vanished(data)
    path = data / DATABASE_NAME
    if not path.exists():
        return usable, ""
    with opened_readonly(path) as db:
        check_integrity(path, db)
        found = take_inventory(db, PictureFiles(data / PICTURES_NAME))
    return _files(found, frozenset(quarantined(data)), usable)


def _files(found: Inventory, aside: frozenset[str], usable: str) -> tuple[str, str]:
    """Return the state of the picture files, and the fix; `aside` are the files set aside."""
    missing = [sha256 for sha256 in found.missing if sha256 not in aside]
    text = f"{usable}; it is intact"
    if aside:
        text += (
            f"; {len(aside):,} picture files are in {UNKNOWN_NAME}, and each is deleted "
            f"{KEPT_DAYS} days after it was moved there"
        )
    if returning := len(found.missing) - len(missing):
        text += f"; the database knows {returning:,} of them, which come back at the next start"
    if missing:
        return (
            f"{text}, but {len(missing):,} of the {len(found.missing) + found.known:,} picture "
            f"files that it names are missing, such as {missing[0][:12]}",
            "copy them from the pictures folder of a backup",
        )
    if count := len(found.orphans):
        return (
            f"{text}, but it knows only {found.known:,} of the picture files; the next start moves "
            f"the other {count:,} to {UNKNOWN_NAME}",
            "if you replaced the database by hand, put the right one back, or "
            "`imagine-bot restore --replace` a backup that has them; otherwise do nothing",
        )
    return text, ""


def is_in_use(data: Path) -> bool:
    """Return whether the process that last locked the folder is alive; the lock is not tried."""
    try:
        holder = int((data / LOCK_NAME).read_text("ascii"))
        os.kill(holder, 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return (data / f"{DATABASE_NAME}-wal").exists()


def _unwritable(data: Path) -> Iterator[str]:
    """Yield a sentence for each path that the folder's owner, the bot's user, cannot write."""
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
        # The superuser may write anything, so the owner's rights are checked instead.
        yield (
            f"{place} belongs to user {status.st_uid} and the folder to user {owner}: chown it, "
            "or, if that is intended, run doctor as the bot's user"
        )
    elif status.st_mode & _READ_WRITE != _READ_WRITE:
        yield f"let the bot's user read and write {place}"


def check_or_explain(data: Path) -> tuple[str, str]:
    """Return what `check` returns; after an error, its sentence is the fix."""
    try:
        return check(data)
    except StorageError as error:
        return "the data folder cannot be used", str(error)
