"""Deleting for good: what a deleted job said stands in no file of the data folder any more.

A deletion has steps with a transaction each, since a rollback brings rows back, but no files:

1. `forget` marks the job deleted, takes prompt, person and recipe out of its rows, and marks the
   pictures that nothing needs for removal.
2. `stripping` writes the pictures that others have varied again, without their recipes.
3. `keeping.remove_marked_files` removes the files, the ones that were written again included.
4. `begin_merging` and `empty_log` take the deleted words out of the index and the write-ahead log;
   `PRAGMA secure_delete` has overwritten them everywhere else.

The rows tell what is left of steps 2 and 3, and the header of the database (`user_version`) whether
step 4 is done, so all of them are done after a crash as well.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

import sqlite_utils

from .. import queries
from ..errors import StorageError
from ..records import FORGOTTEN, UNSTRIPPED, Removal
from ..sqlite.threads import transaction
from ..states import JobStatus

log = logging.getLogger(__name__)

# What `user_version` says: a file may hold remnants of what was deleted before `secure_delete`;
# nothing that was deleted is left; the index may hold words of what was deleted; the index is
# being merged, and nothing was deleted since that began.
_NEVER_CLEANED: Final = 0
_CLEAN: Final = 1
_TO_CLEAN: Final = 2
_MERGING: Final = 3
# So many pages of the index are written in one transaction: milliseconds.
_PAGES: Final = 100

# A job needs its source to be made, again or for the first time, or to be replayed.
_NEEDS_SOURCE: Final = f"""
    NOT jobs.deleted AND jobs.status <> '{JobStatus.CANCELLED}'
    AND (
        jobs.status <> '{JobStatus.FAILED}'
        OR EXISTS (SELECT 1 FROM images AS made WHERE made.job_id = jobs.id)
    )
"""  # noqa: S608 -- the statuses come from this program
UNNEEDED: Final = f"""
    state = 'kept'
    AND NOT EXISTS (SELECT 1 FROM images WHERE images.sha256 = pictures.sha256 AND NOT deleted)
    AND NOT EXISTS (
        SELECT 1 FROM jobs WHERE source_sha256 = pictures.sha256 AND ({_NEEDS_SOURCE})
    )
"""  # noqa: S608 -- as above


def forget(db: sqlite_utils.Database, job_id: int, by: Removal | None) -> bool:
    """Mark a job deleted and take out of its rows what was asked, by whom, and how it was made.

    Where its message stands is kept until that is removed: see `forget_message`. The pictures
    that nothing needs now are marked for removal. Return False if there is no such job, or it is
    deleted already.
    """
    row = queries.job_row(db, job_id)
    if row is None or row["deleted"]:
        return False
    files = [sha256 for (sha256,) in db.execute(_FILES_OF, {"id": job_id}).fetchall()]
    db.execute(_FORGET_JOB, {"id": job_id, **_who(by)})
    db.execute("UPDATE images SET deleted = 1, recipe = ? WHERE job_id = ?", (UNSTRIPPED, job_id))
    for sha256 in files:
        mark_unneeded(db, sha256)
    # Also during a merge, which does not reach the words that are deleted after it began.
    if _state(db) != _NEVER_CLEANED:
        _set_state(db, _TO_CLEAN)
    return True


_FILES_OF: Final = """
    SELECT sha256 FROM images WHERE job_id = :id
    UNION SELECT source_sha256 FROM jobs WHERE id = :id AND source_sha256 IS NOT NULL
"""
_FORGET_JOB: Final = f"""
    UPDATE jobs SET deleted = 1, ended_by = :kind, ended_by_id = :person,
        status = iif(status IN ('queued', 'running', 'generated'), 'cancelled', status),
        user_id = 0, origin = NULL, request = '{FORGOTTEN}', error = NULL, weight = 1.0,
        parent_image_id = NULL, source_sha256 = NULL
    WHERE id = :id
"""  # noqa: S608 -- a constant of this program


def forget_message(db: sqlite_utils.Database, job_id: int) -> None:
    """Remember that the message of a deleted job is gone, and forget where it was."""
    db.execute(
        """
        UPDATE jobs SET message_removed = 1, message_id = NULL, channel_id = 0, guild_id = NULL
        WHERE id = ? AND deleted
        """,
        (job_id,),
    )


def cancel(db: sqlite_utils.Database, job_id: int, by: Removal | None) -> bool:
    """Call an unfinished job cancelled, and mark its source for removal unless it is needed."""
    who = _who(by)
    moved = queries.move(
        db,
        job_id,
        to=JobStatus.CANCELLED,
        ended_by=who["kind"],
        ended_by_id=who["person"],
    )
    return moved and release_source(db, job_id)


def release_source(db: sqlite_utils.Database, job_id: int) -> bool:
    """Mark the source of a job that came to nothing for removal, unless it is needed."""
    row = queries.job_row(db, job_id)
    if row is not None and row["source_sha256"] is not None:
        mark_unneeded(db, row["source_sha256"])
    return True


def mark_unneeded(db: sqlite_utils.Database, sha256: str) -> None:
    """Mark a picture for removal, unless a job or an image that is there needs it."""
    db.execute(
        f"UPDATE pictures SET state = 'removing' WHERE sha256 = ? AND {UNNEEDED}",  # noqa: S608
        (sha256,),
    )


def is_clean(db: sqlite_utils.Database) -> bool:
    """Return whether no word of what was deleted is left in the index and the log."""
    return _state(db) == _CLEAN


def begin_merging(db: sqlite_utils.Database) -> bool:
    """Begin to write the index again, without what was deleted; return whether some is left to do.

    All its parts are merged into one: only then no deleted word is left
    (sqlite.org/fts5.html, section 6.8). It begins again where a crash cut it short.
    """
    if _state(db) == _TO_CLEAN:
        _set_state(db, _MERGING)
    return _merge(db, -_PAGES)


def go_on_merging(db: sqlite_utils.Database) -> bool:
    """Go on with what `begin_merging` began; return whether some is left to do."""
    return _merge(db, _PAGES)


def _merge(db: sqlite_utils.Database, pages: int) -> bool:
    before = db.conn.total_changes
    db.execute("INSERT INTO prompt_search (prompt_search, rank) VALUES ('merge', ?)", (pages,))
    # FTS5's own sign that nothing was left to do.
    return bool(db.conn.total_changes - before > 1)


def end_merging(db: sqlite_utils.Database) -> None:
    """Remember that nothing is left of what was deleted, unless a job was deleted meanwhile.

    To be called once the whole index is merged and `empty_log` has returned True.
    """
    if _state(db) == _MERGING:
        _set_state(db, _CLEAN)


def empty_log(db: sqlite_utils.Database) -> bool:
    """Put the write-ahead log into the database and cut it to nothing, unless somebody reads.

    Called outside of a transaction; it waits for nobody.
    """
    (patience,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute("PRAGMA busy_timeout = 0")
    try:
        (is_busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute(f"PRAGMA busy_timeout = {patience}")
    return not is_busy


def clean_once(path: Path, db: sqlite_utils.Database) -> None:
    """Write the file again if a version before `secure_delete` has deleted in it.

    A million jobs take about a minute, once. Where that cannot be done now, such as on a full
    disk, the next start tries it again.
    """
    if _state(db) != _NEVER_CLEANED:
        return
    try:
        (has_jobs,) = db.execute("SELECT EXISTS (SELECT 1 FROM jobs)").fetchone()
        if has_jobs:
            log.info("Writing %s again, once, without what was deleted before", path)
        db.execute("VACUUM")
        with transaction(path, db):
            # VACUUM does not merge the index.
            _set_state(db, _TO_CLEAN if has_jobs else _CLEAN)
        empty_log(db)
    except (sqlite3.Error, StorageError) as error:
        log.warning("What was deleted by an older version may still stand in %s: %s", path, error)


def _who(by: Removal | None) -> dict[str, str | int | None]:
    return {"kind": None, "person": None} if by is None else by.kept()


def _state(db: sqlite_utils.Database) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _set_state(db: sqlite_utils.Database, state: int) -> None:
    db.execute(f"PRAGMA user_version = {state:d}")
