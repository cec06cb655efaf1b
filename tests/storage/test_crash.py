from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from storage.jobs import Job, JobStatus, JobStore
from storage.opening import open_storage

from .samples import finished, pixels

REPOSITORY = Path(__file__).parents[2]
ROUNDS = 8


def work_and_die(folder: Path, first_seed: int, chance: random.Random) -> list[int]:
    """Kill a working process at some instant, and return the jobs that it said it had added."""
    command = [sys.executable, "-m", "tests.storage.crash_worker", str(folder), str(first_seed)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            seen = [int(process.stdout.readline()) for _ in range(chance.randint(1, 6))]
            # A job takes some ten milliseconds: any of its steps may be the last.
            time.sleep(chance.uniform(0, 0.03))
        finally:
            process.kill()
        seen += map(int, process.stdout.read().split())
    return seen


async def check(store: JobStore, job: Job) -> None:
    """Check that a job that was stopped at any step has all that its status promises."""
    assert (job.attempts == 0) == (job.status is JobStatus.QUEUED)
    assert (job.message_id is not None) == (job.status is JobStatus.DELIVERED)
    images = await store.images(job.id)
    if job.deleted:
        assert all(image.deleted for image in images)
        return
    assert job.request.source == pixels(job.request.seed + 5)
    if job.status in (JobStatus.GENERATED, JobStatus.DELIVERED):
        # Reading checks the hash.
        files = [await store.read(image) for image in images]
        assert files == [data for _, data in finished(job.request)]
    else:
        assert images == []


async def test_nothing_that_was_accepted_is_lost_when_the_process_is_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random()
    accepted: set[int] = set()
    for round_number in range(ROUNDS):
        accepted.update(work_and_die(tmp_path, round_number * 10_000, chance))
        async with open_storage(tmp_path) as store:
            for job_id in accepted:
                job = await store.get(job_id)
                assert job is not None
                await check(store, job)
            for job in await store.unfinished():
                if await store.start(job.id):
                    assert await store.complete(job.id, finished(job.request))
                assert await store.delivered(job.id, 5)
            assert await store.unfinished() == []
