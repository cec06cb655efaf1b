"""Deleted jobs, and the picture files that go with them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import sqlite_utils

from storage.errors import SourceGone
from storage.jobs import JobStore
from storage.states import JobStatus

from ..inspection import history, kept_pixels, open_jobs, unfinished
from ..samples import finished, new_job, pixels, request
from ..stored_jobs import generated, picture_files, restart_maintenance


async def test_a_deleted_job_loses_its_images_but_keeps_its_row(
    store: JobStore, tmp_path: Path
) -> None:
    job = await generated(store)
    await store.delivered(job.id, 5)
    assert await store.delete(job.id)
    assert not await store.delete(job.id)
    gone = await store.by_message(5)
    assert gone is not None
    assert (gone.deleted, gone.status) == (True, JobStatus.DELIVERED)
    assert await store.image(job.id, 1) is None
    assert [i.deleted for i in await store.images(job.id)] == [True]
    assert await history(store, 1, "", 10) == []
    assert await history(store, 1, "rabbit", 10) == []
    assert await kept_pixels(store, pixels(42).sha256) is None
    assert picture_files(tmp_path) == set()


async def test_deleting_a_job_that_runs_cancels_it(store: JobStore) -> None:
    job = await store.add(new_job())
    await store.start(job.id)
    await store.delete(job.id)
    assert not await store.complete(job.id, finished(job.request))
    assert await unfinished(store) == []
    gone = await store.get(job.id)
    assert gone is not None
    assert gone.status is JobStatus.CANCELLED


async def test_a_picture_stays_while_another_job_needs_it(store: JobStore, tmp_path: Path) -> None:
    parent = await generated(store)
    child = await store.add(new_job(request=request(source=pixels(42), strength=0.5)))
    await store.delete(parent.id)
    assert await store.get(child.id) == child
    await store.delete(child.id)
    assert picture_files(tmp_path) == set()
    gone = await store.get(child.id)
    assert gone is not None
    assert gone.request.source is None
    with pytest.raises(SourceGone, match="send it again"):
        await store.request_of(child.id)


async def test_a_deleted_picture_can_be_stored_and_deleted_again(
    store: JobStore, tmp_path: Path
) -> None:
    first = await generated(store)
    await store.delete(first.id)
    second = await generated(store)
    (image,) = await store.images(second.id)
    assert await store.read(image) == finished(second.request)[0][1]
    assert await kept_pixels(store, pixels(42).sha256) == pixels(42)
    await store.delete(second.id)
    assert picture_files(tmp_path) == set()


async def test_the_next_start_finishes_a_removal_that_a_crash_interrupted(
    tmp_path: Path,
) -> None:
    async with open_jobs(tmp_path) as store:
        job = await generated(store)
        await store.delete(job.id)
        again = await generated(store)
        (image,) = await store.images(again.id)
    db = sqlite_utils.Database(tmp_path / "imagine-bot.db")
    with db.atomic():
        db.execute("UPDATE images SET deleted = 1")
        db.execute("UPDATE pictures SET state = 'removing'")
    db.close()
    assert picture_files(tmp_path) == {image.sha256}
    async with open_jobs(tmp_path):
        assert picture_files(tmp_path) == set()


async def test_other_files_are_removed_if_one_cannot_be(
    store: JobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck = await generated(store, request=request(seed=1))
    other = await generated(store, request=request(seed=2))
    (image,) = await store.images(stuck.id)
    unlink = Path.unlink

    def refusing(path: Path, *, missing_ok: bool = False) -> None:
        if path.stem == image.sha256:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refusing)
        assert await store.delete(stuck.id)
        assert "let the bot's user read and write there" in caplog.text
        assert await store.delete(other.id)
        assert picture_files(tmp_path) == {image.sha256}
        await restart_maintenance(store)
    await restart_maintenance(store)
    assert picture_files(tmp_path) == set()
