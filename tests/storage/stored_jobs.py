"""Jobs with images, and their picture files."""

from __future__ import annotations

from pathlib import Path

from storage.jobs import JobStore
from storage.records import Job
from storage.upkeep.startup import finish_interrupted

from .samples import finished, new_job


async def generated(store: JobStore, prompt: str = "a cute rabbit", **values: object) -> Job:
    job = await store.add(new_job(prompt, **values))
    assert await store.start(job.id)
    assert await store.complete(job.id, finished(job.request))
    return job


def picture_files(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "pictures").glob("??/*")}


def lose_pictures(folder: Path) -> None:
    lost = list((folder / "pictures").glob("??/*"))
    assert lost
    for path in lost:
        path.unlink()


async def restart_maintenance(store: JobStore) -> None:
    await finish_interrupted(store._db, store._pictures, store._secure_deletion)
