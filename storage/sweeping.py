"""Removing picture files that a crash left without a row, and nothing else."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

import sqlite_utils

from .checking import Comparison, compare
from .errors import StorageError
from .pictures import PictureFiles

log = logging.getLogger(__name__)

# A crash leaves the files of what was just being stored. More are no leftovers.
LEFTOVERS_MAX: Final = 100


def are_leftovers(found: Comparison) -> bool:
    """Tell whether the unknown files are so few that a crash may have left them.

    Where they are many, or the database knows hardly any file, it is not the one that these
    pictures belong to: it was moved away, or an old copy of it was put in its place.
    """
    return len(found.unknown) <= min(LEFTOVERS_MAX, found.known)


def sweep_unknown(db: sqlite_utils.Database, pictures: PictureFiles) -> None:
    """Remove leftovers that are younger than the database; say so where files are kept.

    Only for the start, before anything is written.

    Raises:
        FolderUnusable: the folder cannot be read.
    """
    found = compare(db, pictures)
    if not found.unknown:
        return
    if not are_leftovers(found):
        log.warning(
            "%s picture files are unknown to the database, which may be newer or older than they "
            "are; they are kept. `imagine-bot doctor` says more.",
            f"{len(found.unknown):,}",
        )
        return
    born = _born(db)
    for sha256 in found.unknown:
        try:
            if pictures.path(sha256).stat().st_mtime >= born:
                pictures.remove(sha256)
        except (OSError, StorageError) as error:
            log.error("A picture that no job has is still there. %s", error)


def _born(db: sqlite_utils.Database) -> float:
    """Return when the database was made, in seconds since 1970; an unknown time is the future."""
    row = db.execute("SELECT min(applied_at) FROM _sqlite_migrations").fetchone()
    try:
        made = datetime.fromisoformat(row[0])
    except (TypeError, ValueError):
        return float("inf")
    return (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()
