"""Adds the prompts of jobs from an older version to the search index, in portions."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

import sqlite_utils

from .threads import transaction

log = logging.getLogger(__name__)

_PORTION: Final = 20_000
_LOG_SECONDS: Final = 10.0


def catch_up(path: Path, db: sqlite_utils.Database) -> None:
    """Add the jobs that are older than the search index; after a crash the next start continues.

    A million jobs take about a minute, once.

    Raises:
        StorageError: SQLite failed.
    """
    indexed, logged = 0, time.monotonic()
    while True:
        with transaction(path, db):
            portion = _index_portion(db)
        if portion is None:
            return
        indexed += portion
        if time.monotonic() > logged + _LOG_SECONDS:
            logged = time.monotonic()
            log.warning("Indexing the prompts of earlier jobs, once: %s done", f"{indexed:,}")


def _index_portion(db: sqlite_utils.Database) -> int | None:
    """Index some jobs and return how many, or None if none are left."""
    last = db.execute("SELECT user_id, job_id FROM search_backlog").fetchone()
    if last is None:
        return None
    # In the order of the index, so that FTS5 merges little.
    rows = db.execute(
        """
        SELECT user_id, id, number, iif(json_valid(request), json_extract(request, '$.prompt'), '')
        FROM jobs INDEXED BY jobs_in_history JOIN search_members USING (user_id)
        WHERE (user_id, id) > (?, ?)
            AND status IN ('generated', 'delivered', 'failed') AND NOT deleted
        ORDER BY user_id, id LIMIT ?
        """,
        (*last, _PORTION),
    ).fetchall()
    if not rows:
        db.execute("DELETE FROM search_backlog")
        return 0
    db.conn.executemany(
        "INSERT INTO prompt_search (rowid, member, prompt) VALUES (? << 32 | ?, ?, ?)",
        [(number, job_id, number, prompt) for _, job_id, number, prompt in rows],
    )
    db.execute("UPDATE search_backlog SET user_id = ?, job_id = ?", rows[-1][:2])
    return len(rows)
