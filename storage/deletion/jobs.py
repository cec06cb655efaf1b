"""Deletion and cancellation of jobs in the rows, and pictures that nothing needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlite_utils

from ..queries.conversion import FORGOTTEN, UNSTRIPPED
from ..queries.jobs import job_row, move, quoted
from ..records import Removal
from ..states import UNFINISHED, JobStatus
from . import remnants

# A job needs its source and references to run, to run again, and to be replayed.
_NEEDS_PICTURES: Final = f"""
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
        SELECT 1 FROM jobs WHERE source_sha256 = pictures.sha256 AND ({_NEEDS_PICTURES})
    )
    AND NOT EXISTS (
        SELECT 1 FROM job_references JOIN jobs ON jobs.id = job_references.job_id
        WHERE job_references.sha256 = pictures.sha256 AND ({_NEEDS_PICTURES})
    )
"""  # noqa: S608 -- as above
_NEEDED_BY: Final = """
    SELECT source_sha256 FROM jobs WHERE id = :id AND source_sha256 IS NOT NULL
    UNION SELECT sha256 FROM job_references WHERE job_id = :id
"""
_FILES_OF: Final = f"""
    SELECT sha256 FROM images WHERE job_id = :id UNION {_NEEDED_BY}
"""  # noqa: S608 -- as above
_FORGET_JOB: Final = f"""
    UPDATE jobs SET deleted = 1, ended_by = :kind, ended_by_id = :person,
        status = iif(status IN ({quoted(UNFINISHED)}), '{JobStatus.CANCELLED}', status),
        user_id = 0, origin = NULL, request = '{FORGOTTEN}', error = NULL, weight = 1.0,
        parent_image_id = NULL, source_sha256 = NULL
    WHERE id = :id
"""  # noqa: S608 -- as above


def forget_all(
    db: sqlite_utils.Database,
    job_ids: Sequence[int],
    by: Removal | None,
    *,
    without_messages: bool = False,
) -> int:
    """Delete several jobs as `forget` does, and return how many were deleted.

    `without_messages` says that the messages of the jobs are already gone.
    """
    count = sum(forget(db, job_id, by) for job_id in job_ids)
    if without_messages:
        for job_id in job_ids:
            forget_message(db, job_id)
    return count


def forget(db: sqlite_utils.Database, job_id: int, by: Removal | None) -> bool:
    """Mark a job deleted, and clear its request, its member and its recipes.

    The message is kept until it is deleted: see `forget_message`. Pictures that nothing needs any
    more are marked for removal. Return False if the job does not exist or is already deleted.
    """
    row = job_row(db, job_id)
    if row is None or row["deleted"]:
        return False
    files = [sha256 for (sha256,) in db.execute(_FILES_OF, {"id": job_id}).fetchall()]
    db.execute(_FORGET_JOB, {"id": job_id, **_columns(by)})
    db.execute("DELETE FROM job_references WHERE job_id = ?", (job_id,))
    db.execute("UPDATE images SET deleted = 1, recipe = ? WHERE job_id = ?", (UNSTRIPPED, job_id))
    for sha256 in files:
        mark_unneeded(db, sha256)
    remnants.request_cleaning(db)
    return True


def forget_message(db: sqlite_utils.Database, job_id: int) -> None:
    """Record that the message of a deleted job is gone, and clear its message and channel."""
    db.execute(
        """
        UPDATE jobs SET message_removed = 1, message_id = NULL, channel_id = 0, guild_id = NULL
        WHERE id = ? AND deleted
        """,
        (job_id,),
    )


def cancel(db: sqlite_utils.Database, job_id: int, by: Removal | None) -> bool:
    """Move an unfinished job to cancelled, and mark pictures that it alone needs for removal."""
    columns = _columns(by)
    moved = move(
        db,
        job_id,
        to=JobStatus.CANCELLED,
        ended_by=columns["kind"],
        ended_by_id=columns["person"],
    )
    return moved and release_pictures(db, job_id)


def fail(db: sqlite_utils.Database, job_id: int, error: str) -> bool:
    """Move an unfinished job to failed, and mark pictures that it alone needs for removal."""
    moved = move(db, job_id, to=JobStatus.FAILED, error=error)
    return moved and release_pictures(db, job_id)


def release_pictures(db: sqlite_utils.Database, job_id: int) -> bool:
    """Mark the source and references of a failed or cancelled job for removal unless needed."""
    for (sha256,) in db.execute(_NEEDED_BY, {"id": job_id}).fetchall():
        mark_unneeded(db, sha256)
    return True


def mark_unneeded(db: sqlite_utils.Database, sha256: str) -> None:
    """Mark a picture for removal unless a job or an image needs it."""
    db.execute(
        f"UPDATE pictures SET state = 'removing' WHERE sha256 = ? AND {UNNEEDED}",  # noqa: S608
        (sha256,),
    )


def _columns(by: Removal | None) -> dict[str, str | int | None]:
    return {"kind": None, "person": None} if by is None else by.columns()
