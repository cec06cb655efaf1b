"""The statements on jobs, images and pictures, one function each.

They are plain functions on an open database, so that the command line can read with the
same ones (`storage.database.open_readonly`) as the bot's store.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import sqlite_utils

from generation.request import GeneratedImage, Pixels

from . import keeping, records, search
from .errors import JobUnreadable, PictureDamaged
from .pictures import NewFile, PictureFiles, from_png
from .records import HistoryEntry, Job, JobStatus, NewJob, Row, StoredImage

log = logging.getLogger(__name__)

UNFINISHED: Final = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.GENERATED)
# The largest number that SQLite takes: a person may type a longer one.
ID_MAX: Final = 2**63 - 1
# Nobody can send an id that Discord did not get from the bot, so a token has to be unlike those of
# the jobs of the same number only, of which there are as many as lost databases.
_TOKEN_BYTES: Final = 6

_IMAGES: Final = """
    SELECT images.*, jobs.parent_image_id, pictures.pixels_sha256 FROM images
    JOIN jobs ON jobs.id = images.job_id
    JOIN pictures ON pictures.sha256 = images.sha256
"""

_JOB_BITS: Final = 32
# The first line is the condition of the index `jobs_in_history`.
_IS_SHOWN: Final = """
    status IN ('generated', 'delivered', 'failed') AND NOT deleted
    AND (status <> 'failed' OR EXISTS (SELECT 1 FROM images WHERE job_id = jobs.id))
"""
_HISTORY: Final = f"SELECT * FROM jobs WHERE user_id = :user AND {_IS_SHOWN}"  # noqa: S608
# CROSS: the index goes first, whose order is already that of the history.
SEARCH: Final = f"""
    SELECT jobs.* FROM prompt_search
    CROSS JOIN jobs ON jobs.id = prompt_search.rowid & {(1 << _JOB_BITS) - 1}
    WHERE prompt_search MATCH ? AND prompt_search.rowid BETWEEN ? AND ?
        AND {_IS_SHOWN}
    ORDER BY prompt_search.rowid DESC
"""  # noqa: S608 -- the number comes from this program
# As long as a search as one types may take, with what comes after it.
SEARCH_SECONDS: Final = 0.012
# Few, because most of the work of FTS5 is between two steps of the query.
_STEPS_BETWEEN_LOOKS: Final = 200


def insert_job(
    db: sqlite_utils.Database, pictures: PictureFiles, new: NewJob, file: NewFile | None
) -> Job:
    """Store a new job and return it; first its source, as `keeping.announce_source` returned it.

    Raises:
        TypeError: the request is without the pixels of its source.
    """
    source, source_sha256 = new.request.pixels, None
    if file is not None:
        source_sha256 = keeping.keep_file(db, pictures, file)
    elif source is not None:
        source_sha256 = keeping.kept_file(db, pictures, source)
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
            records.request_to_json(new.request),
            source_sha256,
            datetime.now(UTC).isoformat(),
        ),
    )
    return records.job_from_row(row, source)


def insert_images(
    db: sqlite_utils.Database,
    pictures: PictureFiles,
    job_id: int,
    images: Sequence[tuple[GeneratedImage, bytes]],
) -> None:
    """Store the finished images of a job, whose files are announced: the files, then the rows."""
    files = [keeping.keep_file(db, pictures, file) for file in keeping.files_of(images)]
    db.conn.executemany(
        'INSERT INTO images (job_id, "index", sha256, recipe) VALUES (?, ?, ?, ?)',
        [
            (job_id, image.index, sha256, records.recipe_to_json(image.recipe))
            for (image, _), sha256 in zip(images, files, strict=True)
        ],
    )


def move(
    db: sqlite_utils.Database,
    job_id: int,
    *,
    origins: Sequence[JobStatus],
    to: JobStatus,
    **values: Any,
) -> bool:
    """Give a job another status, and columns other values, if it stands in one of `origins`.

    Returns False, and changes nothing, for any other job.
    """
    columns = {"status": to, **values}
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    return _changed(
        db,
        f"""
        UPDATE jobs SET {assignments}
        WHERE id = :id AND status IN ({_quoted(origins)})
        """,  # noqa: S608 -- names of columns and statuses come from this program
        {**columns, "id": job_id},
    )


def start(db: sqlite_utils.Database, job_id: int) -> bool:
    """Count one more attempt at a job and call it running, if it is queued or was running."""
    return _changed(
        db,
        f"""
        UPDATE jobs SET status = 'running', attempts = attempts + 1
        WHERE id = ? AND status IN ({_quoted((JobStatus.QUEUED, JobStatus.RUNNING))})
        """,  # noqa: S608 -- the statuses come from this program
        (job_id,),
    )


def park(db: sqlite_utils.Database, job_id: int) -> bool:
    """Call a running job queued again, and take its last attempt back."""
    return _changed(
        db,
        """
        UPDATE jobs SET status = 'queued', attempts = attempts - 1
        WHERE id = ? AND status = 'running' AND NOT deleted
        """,
        (job_id,),
    )


def has_status(db: sqlite_utils.Database, job_id: int, status: JobStatus) -> bool:
    """Tell whether a job stands there."""
    rows = db.execute("SELECT 1 FROM jobs WHERE id = ? AND status = ?", (job_id, status))
    return rows.fetchone() is not None


def set_message(db: sqlite_utils.Database, job_id: int, message_id: int) -> None:
    """Remember the Discord message that shows a job."""
    db.execute("UPDATE jobs SET message_id = ? WHERE id = ?", (message_id, job_id))


def job_row(db: sqlite_utils.Database, job_id: int) -> Row | None:
    """Return the row of a job, deleted or not."""
    return _first(db, "SELECT * FROM jobs WHERE id = ?", (min(job_id, ID_MAX),))


def job_row_by_message(db: sqlite_utils.Database, message_id: int) -> Row | None:
    """Return the row of the newest job that a message shows, deleted or not."""
    return _first(
        db, "SELECT * FROM jobs WHERE message_id = ? ORDER BY id DESC LIMIT 1", (message_id,)
    )


def ids_shown_in(db: sqlite_utils.Database, message_ids: Sequence[int]) -> list[int]:
    """Return the ids of the jobs that any of these messages shows, without deleted ones."""
    marks = ", ".join("?" * len(message_ids))
    rows = db.execute(
        f"SELECT id FROM jobs WHERE message_id IN ({marks}) AND NOT deleted ORDER BY id",  # noqa: S608
        tuple(message_ids),
    )
    return [job_id for (job_id,) in rows.fetchall()]


def ids_where(
    db: sqlite_utils.Database, column: Literal["channel_id", "guild_id"], value: int
) -> list[int]:
    """Return the ids of the jobs of a channel or server, without deleted ones."""
    rows = db.execute(
        f"SELECT id FROM jobs WHERE {column} = ? AND NOT deleted ORDER BY id",  # noqa: S608
        (value,),
    )
    return [job_id for (job_id,) in rows.fetchall()]


def channels_of(db: sqlite_utils.Database, guild_id: int) -> list[int]:
    """Return the channels and threads of a server that have jobs, without deleted ones.

    It walks from one channel to the next in the index, however many jobs there are in each.
    """
    rows = db.execute(
        """
        WITH RECURSIVE places (id) AS (
            SELECT min(channel_id) FROM jobs WHERE NOT deleted
            UNION ALL
            SELECT (SELECT min(channel_id) FROM jobs WHERE NOT deleted AND channel_id > places.id)
            FROM places WHERE places.id IS NOT NULL
        )
        SELECT id FROM places
        WHERE (
            SELECT guild_id FROM jobs WHERE NOT deleted AND channel_id = places.id LIMIT 1
        ) = ?
        """,
        (guild_id,),
    )
    return [channel_id for (channel_id,) in rows.fetchall()]


def unfinished_rows(db: sqlite_utils.Database) -> list[Row]:
    """Return the rows of the jobs that still have a way to go, the oldest first."""
    return list(
        db.query(
            f"""
            SELECT * FROM jobs WHERE status IN ({_quoted(UNFINISHED)})
            ORDER BY id
            """  # noqa: S608 -- the statuses come from this program
        )
    )


def unwithdrawn_rows(db: sqlite_utils.Database) -> list[Row]:
    """Return the rows of the cancelled jobs whose messages do not say so yet, the oldest first."""
    return list(
        db.query(
            """
            SELECT * FROM jobs WHERE status = 'cancelled' AND NOT withdrawn AND NOT deleted
            ORDER BY id
            """
        )
    )


def unremoved_rows(db: sqlite_utils.Database) -> list[Row]:
    """Return the rows of the deleted jobs whose messages may still be there, the oldest first."""
    return list(
        db.query(
            """
            SELECT * FROM jobs WHERE deleted AND NOT message_removed AND message_id IS NOT NULL
            ORDER BY id
            """
        )
    )


def set_error(db: sqlite_utils.Database, job_id: int, error: str) -> None:
    """Remember why a job without pictures failed, until it is called failed."""
    db.execute(
        "UPDATE jobs SET error = ? WHERE id = ? AND status IN ('queued', 'running')",
        (error, job_id),
    )


def set_withdrawn(db: sqlite_utils.Database, job_id: int) -> None:
    """Remember that the message of a job says that it was cancelled."""
    db.execute("UPDATE jobs SET withdrawn = 1 WHERE id = ?", (job_id,))


def job_of(pictures: PictureFiles, row: Row) -> Job:
    """Return the job of a row, with the pixels of its source.

    Raises:
        PictureMissing: the file of its source is gone or damaged.
    """
    sha256 = row["source_sha256"]
    if sha256 is None or row["deleted"]:
        return records.job_from_row(row, None)
    return records.job_from_row(row, read_pixels(pictures, sha256))


def read_pixels(pictures: PictureFiles, sha256: str) -> Pixels:
    """Return the pixels of a picture file.

    Raises:
        PictureMissing: the file is gone, damaged, or no PNG.
    """
    try:
        return from_png(pictures.read(sha256))
    except ValueError as error:
        raise PictureDamaged(sha256) from error


def images(db: sqlite_utils.Database, job_id: int) -> list[StoredImage]:
    """Return the images of a job in their order, deleted ones too."""
    rows = db.query(f'{_IMAGES} WHERE job_id = ? ORDER BY "index"', (min(job_id, ID_MAX),))
    return [records.image_from_row(row) for row in rows]


def image_by_id(db: sqlite_utils.Database, image_id: int) -> StoredImage | None:
    """Return one image, deleted or not."""
    row = _first(db, f"{_IMAGES} WHERE images.id = ?", (image_id,))
    return None if row is None else records.image_from_row(row)


def image_by_pixels(db: sqlite_utils.Database, pixels_sha256: str) -> StoredImage | None:
    """Return the oldest image with these pixels that is not deleted."""
    row = _first(
        db,
        f"{_IMAGES} WHERE pixels_sha256 = ? AND NOT images.deleted ORDER BY images.id LIMIT 1",
        (pixels_sha256,),
    )
    return None if row is None else records.image_from_row(row)


def source_pixels(
    db: sqlite_utils.Database, pictures: PictureFiles, pixels_sha256: str
) -> Pixels | None:
    """Return the pixels with this hash, if an image or a source with them is kept.

    Raises:
        PictureMissing: it is kept, but its file is gone or damaged.
    """
    sha256 = keeping.kept_picture(db, pixels_sha256)
    if sha256 is None:
        return None
    pixels = read_pixels(pictures, sha256)
    if pixels.sha256 != pixels_sha256:
        raise PictureDamaged(sha256)
    return pixels


def history(db: sqlite_utils.Database, user_id: int, query: str, limit: int) -> list[HistoryEntry]:
    """Return somebody's jobs with images whose prompt has every word of `query`, newest first.

    Those are the generated and delivered ones, and those that failed in their delivery only.
    Each word may be the beginning of one. A number, or a picture's such as `12-1`, also finds the
    job of that number; a query without anything to search for finds all. Where a search takes
    long, it ends with the newest that were found until then: see `SEARCH_SECONDS`.
    """
    limit = max(limit, 0)
    number = search.job_id(query)
    if number is None and search.words_query(query) is None:
        return list(_newest(db, user_id, limit))
    found = {entry.job_id: entry for entry in _entries_with(db, user_id, query, limit)}
    if number is not None:
        rows = db.query(f"{_HISTORY} AND id = :id", {"user": user_id, "id": number})
        found |= {entry.job_id: entry for entry in _entries(rows)}
    return sorted(found.values(), key=lambda entry: entry.job_id, reverse=True)[:limit]


def _newest(db: sqlite_utils.Database, user_id: int, limit: int) -> Iterator[HistoryEntry]:
    sql = f"{_HISTORY} ORDER BY id DESC LIMIT :limit"
    with limited_time(db, SEARCH_SECONDS):
        yield from _entries(db.query(sql, {"user": user_id, "limit": limit}))


def _entries(rows: Iterable[Row]) -> Iterator[HistoryEntry]:
    """Yield the lines of rows; one that cannot be read hides no other."""
    for row in rows:
        try:
            yield records.entry_from_row(row)
        except JobUnreadable as error:
            log.warning("%s", error)


def _entries_with(
    db: sqlite_utils.Database, user_id: int, query: str, limit: int
) -> Iterator[HistoryEntry]:
    member = _first(db, "SELECT number FROM search_members WHERE user_id = ?", (user_id,))
    wanted = search.words_query(query)
    if member is None or wanted is None:
        return
    number, long_words = member["number"], search.long_words(query)
    match = f"member : {number} AND prompt : ({wanted})"
    bounds = (number << _JOB_BITS, (number + 1 << _JOB_BITS) - 1)
    with limited_time(db, SEARCH_SECONDS):
        found = 0
        for entry in _entries(db.query(SEARCH, (match, *bounds))):
            if found < limit and search.holds(entry.searched, long_words):
                found += 1
                yield entry
            if found >= limit:
                return


@contextlib.contextmanager
def limited_time(db: sqlite_utils.Database, seconds: float) -> Iterator[None]:
    """End the queries inside after so many seconds of this thread's time, as if they were done.

    The time of a thread and not of the day: on a busy machine a search gets as far.
    """
    end = time.thread_time() + seconds
    db.conn.set_progress_handler(lambda: time.thread_time() > end, _STEPS_BETWEEN_LOOKS)
    try:
        yield
    except sqlite3.OperationalError as error:
        # The module's own errors carry no code.
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
            raise
    finally:
        db.conn.set_progress_handler(None, 0)


def counts(db: sqlite_utils.Database) -> dict[JobStatus, int]:
    """Return how many jobs that are not deleted stand at each status, none left out."""
    rows = db.execute("SELECT status, count(*) FROM jobs WHERE NOT deleted GROUP BY status")
    found = dict(rows.fetchall())
    return {status: found.get(status, 0) for status in JobStatus}


def _first(db: sqlite_utils.Database, sql: str, parameters: Sequence[Any]) -> Row | None:
    return next(iter(db.query(sql, parameters)), None)


def _changed(db: sqlite_utils.Database, sql: str, parameters: Any) -> bool:
    return bool(db.execute(sql, parameters).rowcount)


def _quoted(statuses: Sequence[JobStatus]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)
