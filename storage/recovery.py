"""The jobs that a restart has to continue, read from their rows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

import sqlite_utils

from .errors import JobUnreadable, StorageError
from .pictures.files import PictureFiles
from .queries.conversion import Row, job_from_row
from .queries.jobs import job_of, unfinished_rows
from .records import Job
from .states import JobStatus

log = logging.getLogger(__name__)


def unfinished_jobs(
    db: sqlite_utils.Database, pictures: PictureFiles, known: Collection[int]
) -> list[tuple[Job, StorageError | None]]:
    """Return the unfinished jobs, oldest first, each with the error of its pictures or None.

    See `JobStore.unfinished`.
    """
    jobs: list[tuple[Job, StorageError | None]] = []
    for row in unfinished_rows(db):
        if row["id"] in known:
            continue
        try:
            jobs.append((job_of(db, pictures, row).without_pixels(), None))
        except StorageError as error:
            # A generated job does not need its pictures any more.
            is_generated = row["status"] == JobStatus.GENERATED
            fault = None if is_generated else error.with_traceback(None)
            jobs += [(job, fault) for job in readable([row])]
    return jobs


def readable(rows: Iterable[Row]) -> list[Job]:
    """Return the jobs of rows without their sources; log rows that cannot be read."""
    jobs = list[Job]()
    for row in rows:
        try:
            jobs.append(job_from_row(row, None))
        except JobUnreadable as error:
            log.error("%s", error)
    return jobs
