"""Checks whether a database file is damaged."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import sqlite_utils

from ..errors import DatabaseDamaged
from .threads import translated

_STEPS_BETWEEN_CHECKS = 10_000


def check_integrity(path: Path, db: sqlite_utils.Database, seconds: float | None = None) -> bool:
    """Return True if the database is sound, False if the check did not end within `seconds`.

    The check reads all pages (a gigabyte takes some seconds). It does not compare indexes with
    their tables.

    Raises:
        DatabaseDamaged: the check found damage.
    """
    end = None if seconds is None else time.monotonic() + seconds
    if end is not None:
        db.conn.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_CHECKS)
    try:
        with translated(path):
            faults = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
            faults += [
                f"a row of {row[0]} refers to nothing"
                for row in db.execute("PRAGMA foreign_key_check").fetchmany(1)
            ]
    except Exception as error:
        if _is_interrupt(error.__cause__):
            return False
        raise
    finally:
        db.conn.set_progress_handler(None, 0)
    if faults != ["ok"]:
        raise DatabaseDamaged(path, " ".join(faults[0 if len(faults) == 1 else -1].split()))
    return True


def _is_interrupt(error: BaseException | None) -> bool:
    return (
        isinstance(error, sqlite3.Error)
        and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
    )
