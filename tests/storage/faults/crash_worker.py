"""A process that stores jobs until it is killed, and prints the id of each job."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from ..inspection import open_jobs
from ..samples import finished, new_job, pixels, request


async def work(folder: Path, first_seed: int) -> None:
    async with open_jobs(folder) as store:
        for seed in itertools.count(first_seed, 10):
            source = pixels(seed + 5)
            job = await store.add(
                new_job(request=request(seed=seed, count=2, source=source, strength=0.5))
            )
            print(job.id, flush=True)
            await store.start(job.id)
            await store.complete(job.id, finished(job.request))
            await store.delivered(job.id, 1000 + job.id)
            if seed % 30 == 0:
                await store.delete(job.id)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
