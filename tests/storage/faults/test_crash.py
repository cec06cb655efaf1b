from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from generation.images.png import write_png
from generation.values.recipe import GeneratedImage
from storage.deletion import jobs as deletion
from storage.errors import DiskFull
from storage.jobs import JobStore
from storage.pictures.files import PictureFiles
from storage.pictures.inventory import take_inventory
from storage.records import Job
from storage.states import JobStatus

from ..inspection import open_jobs, unfinished
from ..samples import finished, new_job, pixels, recipe, request

REPOSITORY = Path(__file__).parents[3]
ROUNDS = 8


def work_and_die(folder: Path, first_seed: int, chance: random.Random) -> list[int]:
    """Kill a working process at a random instant, and return the ids that it has printed."""
    command = [
        sys.executable,
        "-m",
        "tests.storage.faults.crash_worker",
        str(folder),
        str(first_seed),
    ]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            seen = [int(process.stdout.readline()) for _ in range(chance.randint(1, 6))]
            # A job takes about ten milliseconds, so the kill may come at any step.
            time.sleep(chance.uniform(0, 0.03))
        finally:
            process.kill()
        seen += map(int, process.stdout.read().split())
    return seen


class Crash(Exception):
    """Stands for the end of the process."""


def pixels_with_recipe() -> list[tuple[GeneratedImage, bytes]]:
    result = pixels(42)
    image = GeneratedImage(index=0, pixels=result, recipe=recipe(request(), 0, result))
    return [(image, write_png(result, image.recipe))]


async def check(store: JobStore, job: Job) -> None:
    """Check that an interrupted job has everything that its status promises."""
    assert (job.attempts == 0) == (job.status is JobStatus.QUEUED)
    assert (job.message_id is not None) == (job.status is JobStatus.DELIVERED)
    images = await store.images(job.id)
    if job.deleted:
        assert all(image.deleted for image in images)
        return
    assert job.request.source == pixels(job.request.seed + 5)
    if job.status in (JobStatus.GENERATED, JobStatus.DELIVERED):
        # `read` also checks the hash.
        files = [await store.read(image) for image in images]
        assert files == [data for _, data in finished(job.request)]
    else:
        assert images == []


async def test_no_accepted_job_is_lost_if_the_process_is_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random()
    accepted: set[int] = set()
    for round_number in range(ROUNDS):
        accepted.update(work_and_die(tmp_path, round_number * 10_000, chance))
        async with open_jobs(tmp_path) as store:
            for job_id in accepted:
                job = await store.get(job_id)
                assert job is not None
                await check(store, job)
            for left in await unfinished(store):
                job = await store.get(left.id)
                assert job is not None
                if await store.start(job.id):
                    assert await store.complete(job.id, finished(job.request))
                assert await store.delivered(job.id, 5)
            assert await unfinished(store) == []
            found = await store._db.run(lambda db: take_inventory(db, store._pictures))
            assert (found.missing, found.orphans) == ((), ())


@pytest.mark.parametrize("step", ["add", "complete", "erase"])
async def test_the_next_start_removes_a_file_that_a_crash_left_without_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The transaction after the file is rolled back, as SQLite does after a crash."""
    written: list[str] = []
    write = PictureFiles.write

    def write_and_die(files: PictureFiles, data: bytes) -> str:
        written.append(write(files, data))
        raise Crash

    async with open_jobs(tmp_path) as store:
        uploaded = new_job(request=request(source=pixels(70), strength=0.5))
        job = await store.add(uploaded)
        await store.start(job.id)
        if step == "erase":
            png = pixels_with_recipe()
            await store.complete(job.id, png)
            source = request(source=png[0][0].pixels, strength=0.5)
            await store.add(new_job(request=source, parent_image_id=1))
            await store._db.run(lambda db: deletion.forget(db, job.id, None))
        other = new_job(request=request(source=pixels(71), strength=0.5))
        act = {
            "add": lambda: store.add(other),
            "complete": lambda: store.complete(job.id, finished(job.request)),
            "erase": store._secure_deletion.run,
        }[step]
        with monkeypatch.context() as patch:
            patch.setattr(PictureFiles, "write", write_and_die)
            with pytest.raises(Crash):
                await act()
        files = PictureFiles(store._pictures.folder)
        assert [files.path(name).exists() for name in written] == [True]
        assert await store._db.run(lambda db: db["pictures"].get(written[0])["state"] == "removing")
        # A killed process does not close its stores.
        store._secure_deletion._is_requested = False
    async with open_jobs(tmp_path) as store:
        # Secure deletion may have written the stripped file again.
        assert step == "erase" or not files.path(written[0]).exists()
        found = await store._db.run(lambda db: take_inventory(db, files))
        assert (found.missing, found.orphans) == ((), ())


async def test_a_full_disk_leaves_no_orphans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jobs(tmp_path) as store:
        job = await store.add(new_job(request=request(count=3)))
        await store.start(job.id)
        write = PictureFiles.write
        written: list[str] = []

        def write_two(files: PictureFiles, data: bytes) -> str:
            if len(written) == 2:
                raise DiskFull(tmp_path)
            written.append(write(files, data))
            return written[-1]

        with monkeypatch.context() as patch:
            patch.setattr(PictureFiles, "write", write_two)
            with pytest.raises(DiskFull):
                await store.complete(job.id, finished(job.request))
        assert len(list(store._pictures.folder.glob("??/*.png"))) == 2
        await store.cancel(job.id)
        assert list(store._pictures.folder.glob("??/*.png")) == []
