from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import DiskFull, FolderUnusable
from storage.folder.space import Space, free_bytes
from storage.jobs import JobStore
from storage.states import JobStatus

from ..inspection import open_jobs, unfinished
from ..samples import finished, new_job, request
from .disks import fill, small_disk

MB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 2) as folder:
        yield folder


async def add_until_refused(store: JobStore) -> None:
    # The write-ahead log may have a little space left inside.
    for _ in range(10_000):
        await store.add(new_job("a" * 1_000))


async def test_a_full_disk_stores_a_job_completely_or_not_at_all(disk: Path) -> None:
    async with open_jobs(disk) as store:
        first = await store.add(new_job("owl"))
        ballast = fill(disk)
        with pytest.raises(DiskFull, match="free some space"):
            await add_until_refused(store)
        ballast.unlink()
        assert await store.get(first.id) == first
        before = await unfinished(store)
        last = await store.add(new_job("cat"))
        assert await unfinished(store) == [*before, last]
        assert [job.id for job in before] == list(range(1, last.id))


async def test_a_job_stays_running_if_its_pictures_do_not_fit_on_the_disk(disk: Path) -> None:
    asked = request("owl", count=2)
    async with open_jobs(disk) as store:
        job = await store.add(new_job(request=asked))
        await store.start(job.id)
        ballast = fill(disk)
        with pytest.raises(DiskFull):
            await store.complete(job.id, finished(asked))
        kept = await store.get(job.id)
        assert kept is not None
        assert kept.status is JobStatus.RUNNING
        assert await store.images(job.id) == []
        ballast.unlink()
        assert await store.complete(job.id, finished(asked))
        images = await store.images(job.id)
        assert [await store.read(image) for image in images] == [png for _, png in finished(asked)]


async def test_opening_a_folder_on_a_full_disk_reports_the_full_disk(disk: Path) -> None:
    fill(disk)
    with pytest.raises(DiskFull) as caught:
        async with open_jobs(disk / "data"):
            pass
    assert str(disk) in str(caught.value)


async def test_a_disk_that_filled_up_while_the_bot_was_off_is_reported(disk: Path) -> None:
    async with open_jobs(disk) as store:
        await store.add(new_job("owl"))
    ballast = fill(disk)
    with pytest.raises(DiskFull):
        async with open_jobs(disk) as store:
            await store.add(new_job("cat"))
    ballast.unlink()
    async with open_jobs(disk) as store:
        assert [job.request.prompt for job in await unfinished(store)] == ["owl"]


async def test_a_job_is_refused_if_sqlite_runs_out_of_pages(tmp_path: Path) -> None:
    async with open_jobs(tmp_path) as store:
        await store._db.run(lambda db: db.execute("PRAGMA max_page_count = 1"))
        with pytest.raises(DiskFull):
            await add_until_refused(store)
        before = len(await unfinished(store))
        await store._db.run(lambda db: db.execute("PRAGMA max_page_count = 1000000"))
        await store.add(new_job("cat"))
        assert len(await unfinished(store)) == before + 1


def test_the_reserve_is_kept_free(disk: Path) -> None:
    space = Space(disk, MB)
    space.check()
    fill(disk, leave=MB)
    space.check()
    assert free_bytes(disk) == MB
    with pytest.raises(DiskFull, match="has only 1 MB left; free some space") as caught:
        Space(disk, MB + 1).check()
    assert caught.value.free == MB
    assert caught.value.path == disk


def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "pictures").touch()
    with pytest.raises(FolderUnusable):
        Space(tmp_path / "pictures", 0).check()


def test_a_removed_folder_is_created_again(tmp_path: Path) -> None:
    Space(tmp_path / "pictures", 0).check()
    assert (tmp_path / "pictures").is_dir()


def test_an_unwritable_disk_is_found_before_a_job_is_accepted(disk: Path) -> None:
    fill(disk)
    with pytest.raises(DiskFull):
        Space(disk, 0).check()
