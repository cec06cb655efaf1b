"""The statements on jobs."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import sqlite_utils

from ..pictures.files import NewFile, PictureFiles
from ..pictures.rows import keep_file, kept_file
from ..records import Job, NewJob
from ..states import PENDING, UNFINISHED, JobStatus, origins
from .conversion import Row, job_from_row, request_to_json

# The largest number that SQLite takes; a member may type a larger one.
ID_MAX: Final = 2**63 - 1
# Discord sends an id only if the bot has sent it before. So the token needs to differ only from the
# tokens of jobs with the same number, of which there is one for each lost database.
_TOKEN_BYTES: Final = 6


def insert_job(
    db: sqlite_utils.Database, pictures: PictureFiles, new: NewJob, files: Iterable[NewFile]
) -> Job:
    """Store the new files of the request's pictures, then the job; return the job.

    `files` come from `pictures.rows.announce_pictures`.

    Raises:
        TypeError: the request does not hold the pixels of its pictures.
    """
    source, references = new.request.pixels, new.request.reference_pixels
    for file in files:
        keep_file(db, pictures, file)
    source_sha256 = None if source is None else kept_file(db, pictures, source)
    (row,) = db.query(
        """
        INSERT INTO jobs (token, kind, user_id, guild_id, channel_id, origin, weight,
                          age_restricted, parent_image_id, request, source_sha256, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        RETURNING *
        """,
        (
            secrets.token_hex(_TOKEN_BYTES),
            new.kind,
            new.user_id,
            new.guild_id,
            new.channel_id,
            new.origin,
            new.weight,
            new.age_restricted,
            new.parent_image_id,
            request_to_json(new.request),
            source_sha256,
            datetime.now(UTC).isoformat(),
        ),
    )
    db.conn.executemany(
        "INSERT INTO job_references (job_id, position, sha256) VALUES (?, ?, ?)",
        [
            (row["id"], position, kept_file(db, pictures, picture))
            for position, picture in enumerate(references)
        ],
    )
    return job_from_row(row, source, references)


def move(
    db: sqlite_utils.Database,
    job_id: int,
    *,
    to: JobStatus,
    **values: Any,
) -> bool:
    """Move a job to another state and set other columns, if `states.MOVES` allows the move.

    Otherwise change nothing and return False.
    """
    columns = {"status": to, **values}
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    return _changed(
        db,
        f"""
        UPDATE jobs SET {assignments}
        WHERE id = :id AND status IN ({quoted(origins(to))})
        """,  # noqa: S608 -- names of columns and statuses come from this program
        {**columns, "id": job_id},
    )


def start(db: sqlite_utils.Database, job_id: int) -> bool:
    """Move a queued or running job to running, and count one more attempt."""
    return _changed(
        db,
        f"""
        UPDATE jobs SET status = 'running', attempts = attempts + 1
        WHERE id = ? AND status IN ({quoted(origins(JobStatus.RUNNING))})
        """,  # noqa: S608 -- the statuses come from this program
        (job_id,),
    )


def requeue(db: sqlite_utils.Database, job_id: int) -> bool:
    """Move a running job back to queued, and count one attempt less."""
    return _changed(
        db,
        f"""
        UPDATE jobs SET status = 'queued', attempts = attempts - 1
        WHERE id = ? AND status IN ({quoted(origins(JobStatus.QUEUED))}) AND NOT deleted
        """,  # noqa: S608 -- the statuses come from this program
        (job_id,),
    )


def has_status(db: sqlite_utils.Database, job_id: int, status: JobStatus) -> bool:
    """Return whether a job has this status."""
    rows = db.execute("SELECT 1 FROM jobs WHERE id = ? AND status = ?", (job_id, status))
    return rows.fetchone() is not None


def set_message(db: sqlite_utils.Database, job_id: int, message_id: int) -> None:
    """Record the Discord message that shows a job."""
    db.execute("UPDATE jobs SET message_id = ? WHERE id = ?", (message_id, job_id))


def set_error(db: sqlite_utils.Database, job_id: int, error: str) -> None:
    """Record why a job without pictures will fail; its status stays."""
    db.execute(
        f"UPDATE jobs SET error = ? WHERE id = ? AND status IN ({quoted(PENDING)})",  # noqa: S608
        (error, job_id),
    )


def set_cancellation_reported(db: sqlite_utils.Database, job_id: int) -> None:
    """Record that the message of a job shows its cancellation."""
    db.execute("UPDATE jobs SET withdrawn = 1 WHERE id = ?", (job_id,))


def job_row(db: sqlite_utils.Database, job_id: int) -> Row | None:
    """Return the row of a job, deleted or not."""
    return _first(db, "SELECT * FROM jobs WHERE id = ?", (min(job_id, ID_MAX),))


def job_row_by_message(db: sqlite_utils.Database, message_id: int) -> Row | None:
    """Return the row of the newest job that a message shows, deleted or not."""
    return _first(
        db, "SELECT * FROM jobs WHERE message_id = ? ORDER BY id DESC LIMIT 1", (message_id,)
    )


def ids_shown_in(db: sqlite_utils.Database, message_ids: Sequence[int]) -> list[int]:
    """Return the ids of the jobs that these messages show, deleted jobs left out."""
    marks = ", ".join("?" * len(message_ids))
    rows = db.execute(
        f"SELECT id FROM jobs WHERE message_id IN ({marks}) AND NOT deleted ORDER BY id",  # noqa: S608
        tuple(message_ids),
    )
    return [job_id for (job_id,) in rows.fetchall()]


def ids_where(
    db: sqlite_utils.Database, column: Literal["channel_id", "guild_id"], value: int
) -> list[int]:
    """Return the ids of the jobs of a channel or server, deleted jobs left out."""
    rows = db.execute(
        f"SELECT id FROM jobs WHERE {column} = ? AND NOT deleted ORDER BY id",  # noqa: S608
        (value,),
    )
    return [job_id for (job_id,) in rows.fetchall()]


def channels_of(db: sqlite_utils.Database, guild_id: int) -> list[int]:
    """Return the channels and threads of a server that have jobs, deleted jobs left out.

    The statement jumps from one channel to the next in the index, and skips the jobs between.
    """
    rows = db.execute(
        """
        WITH RECURSIVE channels (id) AS (
            SELECT min(channel_id) FROM jobs WHERE NOT deleted
            UNION ALL
            SELECT (
                SELECT min(channel_id) FROM jobs WHERE NOT deleted AND channel_id > channels.id
            )
            FROM channels WHERE channels.id IS NOT NULL
        )
        SELECT id FROM channels
        WHERE (
            SELECT guild_id FROM jobs WHERE NOT deleted AND channel_id = channels.id LIMIT 1
        ) = ?
        """,
        (guild_id,),
    )
    return [channel_id for (channel_id,) in rows.fetchall()]


def unfinished_rows(db: sqlite_utils.Database) -> list[Row]:
    """Return the rows of the unfinished jobs, oldest first."""
    return list(
        db.query(
            f"""
            SELECT * FROM jobs WHERE status IN ({quoted(UNFINISHED)})
            ORDER BY id
            """  # noqa: S608 -- the statuses come from this program
        )
    )


def unreported_cancellation_rows(db: sqlite_utils.Database) -> list[Row]:
    """Return the rows of cancelled jobs whose messages do not show that yet, oldest first."""
    return list(
        db.query(
            """
            SELECT * FROM jobs WHERE status = 'cancelled' AND NOT withdrawn AND NOT deleted
            ORDER BY id
            """
        )
    )


def deleted_rows_with_message(db: sqlite_utils.Database) -> list[Row]:
    """Return the rows of deleted jobs whose messages may still exist, oldest first."""
    return list(
        db.query(
            """
            SELECT * FROM jobs WHERE deleted AND NOT message_removed AND message_id IS NOT NULL
            ORDER BY id
            """
        )
    )


def job_of(db: sqlite_utils.Database, pictures: PictureFiles, row: Row) -> Job:
    """Return the job of a row, with the pixels of its source and its references.

    Raises:
        PictureMissing: the file of a picture is missing or damaged.
        JobUnreadable: the row cannot be read.
    """
    if row["deleted"]:
        return job_from_row(row, None)
    sha256 = row["source_sha256"]
    source = None if sha256 is None else pictures.read_pixels(sha256)
    references = tuple(map(pictures.read_pixels, reference_files(db, row["id"])))
    return job_from_row(row, source, references)


def reference_files(db: sqlite_utils.Database, job_id: int) -> list[str]:
    """Return the SHA-256 of the files of a job's references, in their order."""
    rows = db.execute(
        "SELECT sha256 FROM job_references WHERE job_id = ? ORDER BY position", (job_id,)
    )
    return [sha256 for (sha256,) in rows.fetchall()]


def _first(db: sqlite_utils.Database, sql: str, parameters: Sequence[Any]) -> Row | None:
    return next(iter(db.query(sql, parameters)), None)


def _changed(db: sqlite_utils.Database, sql: str, parameters: Any) -> bool:
    return bool(db.execute(sql, parameters).rowcount)


def quoted(statuses: Sequence[JobStatus]) -> str:
    """Return the states as a list of SQL literals."""
    return ", ".join(f"'{status}'" for status in statuses)
