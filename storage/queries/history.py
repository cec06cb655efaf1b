"""The statements on the history of a member: the newest jobs, and the search in prompts."""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import Final

import sqlite_utils

from ..errors import JobUnreadable
from ..records import HistoryEntry
from . import fts5
from .conversion import Row, entry_from_row

log = logging.getLogger(__name__)

_JOB_BITS: Final = 32
_JOB_ID: Final = re.compile(r"#?([0-9]{1,18})(?:[-./#][0-9]{0,2})?")
# The first line is the condition of the index `jobs_in_history`.
_IS_SHOWN: Final = """
    status IN ('generated', 'delivered', 'failed') AND NOT deleted
    AND (status <> 'failed' OR EXISTS (SELECT 1 FROM images WHERE job_id = jobs.id))
"""
_HISTORY: Final = f"SELECT * FROM jobs WHERE user_id = :user AND {_IS_SHOWN}"  # noqa: S608
# CROSS JOIN makes SQLite read the search index first: its order is the order of the history.
SEARCH: Final = f"""
    SELECT jobs.* FROM prompt_search
    CROSS JOIN jobs ON jobs.id = prompt_search.rowid & {(1 << _JOB_BITS) - 1}
    WHERE prompt_search MATCH ? AND prompt_search.rowid BETWEEN ? AND ?
        AND {_IS_SHOWN}
    ORDER BY prompt_search.rowid DESC
"""  # noqa: S608 -- the number comes from this program
# Discord asks for suggestions at every keystroke, so a search must be short.
SEARCH_SECONDS: Final = 0.012
# FTS5 does much work in one step of SQLite's virtual machine, so the steps between checks are few.
_STEPS_BETWEEN_CHECKS: Final = 200


def history(db: sqlite_utils.Database, user_id: int, query: str, limit: int) -> list[HistoryEntry]:
    """Return at most `limit` jobs of a member whose prompts match `query`, newest first.

    Generated and delivered jobs are found, and failed jobs that have images. Every word of the
    query must begin a word of the prompt. A job number, or an image number such as `12-1`, also
    finds that job. A query without words finds all jobs. A search that takes longer than
    `SEARCH_SECONDS` returns what it has found until then.
    """
    limit = max(limit, 0)
    number = _job_id(query)
    if number is None and fts5.words_query(query) is None:
        return list(_newest(db, user_id, limit))
    found = {entry.job_id: entry for entry in _matches(db, user_id, query, limit)}
    if number is not None:
        rows = db.query(f"{_HISTORY} AND id = :id", {"user": user_id, "id": number})
        found |= {entry.job_id: entry for entry in _entries(rows)}
    return sorted(found.values(), key=lambda entry: entry.job_id, reverse=True)[:limit]


def _job_id(text: str) -> int | None:
    """Return the number of the job that `text` names, such as `12`, `#12` or `12-1`."""
    match = _JOB_ID.fullmatch(text.strip())
    return int(match.group(1)) if match else None


def _newest(db: sqlite_utils.Database, user_id: int, limit: int) -> Iterator[HistoryEntry]:
    sql = f"{_HISTORY} ORDER BY id DESC LIMIT :limit"
    with limited_time(db, SEARCH_SECONDS):
        yield from _entries(db.query(sql, {"user": user_id, "limit": limit}))


def _entries(rows: Iterable[Row]) -> Iterator[HistoryEntry]:
    """Yield the entries of rows; log rows that cannot be read."""
    for row in rows:
        try:
            yield entry_from_row(row)
        except JobUnreadable as error:
            log.warning("%s", error)


def _matches(
    db: sqlite_utils.Database, user_id: int, query: str, limit: int
) -> Iterator[HistoryEntry]:
    numbers = db.execute("SELECT number FROM search_members WHERE user_id = ?", (user_id,))
    member = numbers.fetchone()
    wanted = fts5.words_query(query)
    if member is None or wanted is None:
        return
    (number,), long_words = member, fts5.long_words(query)
    match = f"member : {number} AND prompt : ({wanted})"
    bounds = (number << _JOB_BITS, (number + 1 << _JOB_BITS) - 1)
    with limited_time(db, SEARCH_SECONDS):
        found = 0
        for entry in _entries(db.query(SEARCH, (match, *bounds))):
            if found < limit and fts5.holds(entry.searched, long_words):
                found += 1
                yield entry
            if found >= limit:
                return


@contextlib.contextmanager
def limited_time(db: sqlite_utils.Database, seconds: float) -> Iterator[None]:
    """End the queries inside after some seconds of CPU time, as if they had no more rows.

    CPU time of the thread, not wall time: a busy machine must not cut the results short.
    """
    end = time.thread_time() + seconds
    db.conn.set_progress_handler(lambda: time.thread_time() > end, _STEPS_BETWEEN_CHECKS)
    try:
        yield
    except sqlite3.OperationalError as error:
        # Errors of Python's sqlite3 module itself have no code.
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
            raise
    finally:
        db.conn.set_progress_handler(None, 0)
