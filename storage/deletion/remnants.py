"""Remnants of deleted text in the search index, the write-ahead log and old database pages."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

import sqlite_utils

from ..errors import StorageError
from ..sqlite.threads import transaction

log = logging.getLogger(__name__)

# The values of `user_version`. NEVER_CLEANED: the file may hold remnants from versions without
# `secure_delete`. CLEAN: no remnants. TO_CLEAN: the index may hold deleted words. MERGING: a merge
# of the index is under way, and nothing was deleted since its start.
_NEVER_CLEANED: Final = 0
_CLEAN: Final = 1
_TO_CLEAN: Final = 2
_MERGING: Final = 3
# The pages of the index that one transaction writes, which takes milliseconds.
_PAGES: Final = 100


def is_clean(db: sqlite_utils.Database) -> bool:
    """Return whether the index and the log hold no deleted words."""
    return _state(db) == _CLEAN


def request_cleaning(db: sqlite_utils.Database) -> None:
    """Record that text was deleted, even during a merge: the merge may miss that text."""
    if _state(db) != _NEVER_CLEANED:
        _set_state(db, _TO_CLEAN)


def begin_merging(db: sqlite_utils.Database) -> bool:
    """Start to merge all segments of the index into one; return whether work is left.

    Deleted words are gone only when one segment is left (sqlite.org/fts5.html, section 6.8).
    After a crash the merge starts from the beginning.
    """
    if _state(db) == _TO_CLEAN:
        _set_state(db, _MERGING)
    return _merge(db, -_PAGES)


def continue_merging(db: sqlite_utils.Database) -> bool:
    """Continue the merge; return whether work is left."""
    return _merge(db, _PAGES)


def _merge(db: sqlite_utils.Database, pages: int) -> bool:
    before = db.conn.total_changes
    db.execute("INSERT INTO prompt_search (prompt_search, rank) VALUES ('merge', ?)", (pages,))
    # FTS5 makes fewer than two changes when nothing is left to merge.
    return bool(db.conn.total_changes - before > 1)


def end_merging(db: sqlite_utils.Database) -> None:
    """Record that no remnants are left, unless a job was deleted during the merge.

    Call this after the merge has ended and `empty_log` has returned True.
    """
    if _state(db) == _MERGING:
        _set_state(db, _CLEAN)


def empty_log(db: sqlite_utils.Database) -> bool:
    """Write the write-ahead log into the database and truncate it; return False if a reader blocks.

    Call this outside of a transaction. It does not wait for readers.
    """
    (timeout,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute("PRAGMA busy_timeout = 0")
    try:
        (is_busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute(f"PRAGMA busy_timeout = {timeout}")
    return not is_busy


def clean_once(path: Path, db: sqlite_utils.Database) -> None:
    """Rewrite a database in which a version without `secure_delete` has deleted jobs.

    A million jobs take about a minute, once. If the rewrite fails, such as on a full disk, the
    next start tries again.
    """
    if _state(db) != _NEVER_CLEANED:
        return
    try:
        (has_jobs,) = db.execute("SELECT EXISTS (SELECT 1 FROM jobs)").fetchone()
        if has_jobs:
            log.info("Rewriting %s once, to remove remnants of jobs deleted before", path)
        db.execute("VACUUM")
        with transaction(path, db):
            # VACUUM does not merge the index.
            _set_state(db, _TO_CLEAN if has_jobs else _CLEAN)
        empty_log(db)
    except (sqlite3.Error, StorageError) as error:
        log.warning("%s may hold remnants of jobs deleted by an older version: %s", path, error)


def _state(db: sqlite_utils.Database) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _set_state(db: sqlite_utils.Database, state: int) -> None:
    db.execute(f"PRAGMA user_version = {state:d}")
