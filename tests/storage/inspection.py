"""What a store holds, as only tests ask for it."""

from __future__ import annotations

from collections import Counter

from generation.values.pixels import Pixels
from storage.jobs import JobStore
from storage.pictures import rows
from storage.records import Job
from storage.states import JobStatus


async def unfinished(store: JobStore) -> list[Job]:
    """Return the unfinished jobs whose sources can be read, oldest first."""
    return [job for job, error in await store.unfinished_or_stranded() if error is None]


async def kept_pixels(store: JobStore, pixels_sha256: str) -> Pixels | None:
    """Return the pixels with this hash, if a kept picture has them."""
    return await store._db.run(lambda db: rows.source_pixels(db, store._pictures, pixels_sha256))


async def counts(store: JobStore) -> Counter[JobStatus]:
    """Return the number of jobs in each state, deleted jobs left out."""
    sql = "SELECT status FROM jobs WHERE NOT deleted"
    found = await store._db.read(lambda db: db.execute(sql).fetchall())
    return Counter(JobStatus(status) for (status,) in found)
