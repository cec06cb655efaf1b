"""Queries on a store that only tests need."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from generation.values.pixels import Pixels
from storage.history import History
from storage.jobs import JobStore
from storage.opening import open_storage
from storage.pictures import rows
from storage.records import HistoryEntry, Job
from storage.states import JobStatus


async def unfinished(store: JobStore) -> list[Job]:
    """Return the unfinished jobs whose sources can be read, oldest first."""
    return [job for job, error in await store.unfinished() if error is None]


async def kept_pixels(store: JobStore, pixels_sha256: str) -> Pixels | None:
    """Return the pixels with this hash, if a kept picture has them."""
    return await store._db.run(lambda db: rows.source_pixels(db, store._pictures, pixels_sha256))


async def counts(store: JobStore) -> Counter[JobStatus]:
    """Return the number of jobs in each state, deleted jobs left out."""
    sql = "SELECT status FROM jobs WHERE NOT deleted"
    found = await store._db.read(lambda db: db.execute(sql).fetchall())
    return Counter(JobStatus(status) for (status,) in found)


async def history(store: JobStore, user_id: int, query: str, limit: int) -> list[HistoryEntry]:
    """Search the jobs of a member."""
    return await History(store._db).search(user_id, query, limit)


@asynccontextmanager
async def open_jobs(folder: Path) -> AsyncIterator[JobStore]:
    """Open the store of jobs in a data folder."""
    async with open_storage(folder) as storage:
        yield storage.jobs
