"""The names in a data folder, and checks before a database is opened there."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import BackupRefused, DatabaseDamaged, from_os_error

DATABASE_NAME: Final = "imagine-bot.db"
LOCK_NAME: Final = "imagine-bot.lock"
PICTURES_NAME: Final = "pictures"
# Picture files that the database does not know are moved here.
UNKNOWN_NAME: Final = "unknown-pictures"
# A restore collects its files here before it moves them into place.
RESTORING_NAME: Final = "restoring"


def refuse_vanished(folder: Path) -> None:
    """Refuse a folder whose database is gone or empty: SQLite would create a new one silently.

    Raises:
        DatabaseDamaged: the database is gone or empty, but its log or its pictures exist.
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


def refuse_half_restored(folder: Path) -> None:
    """Refuse a folder in which a restore was interrupted.

    Raises:
        BackupRefused: the restore has to be run again.
    """
    if (folder / RESTORING_NAME).exists():
        raise BackupRefused(
            f"A restore into {folder} was interrupted; run `imagine-bot restore` again to "
            "complete it."
        )


def _has_pictures(folder: Path) -> bool:
    return next((folder / PICTURES_NAME).glob("??/*.png"), None) is not None
