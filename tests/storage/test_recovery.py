"""Unfinished, cancelled and deleted jobs as a restart reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlite_utils

from storage.errors import FolderUnusable, JobUnreadable, PictureMissing
from storage.jobs import JobStore
from storage.states import JobStatus

from .inspection import counts, unfinished
from .samples import finished, new_job, pixels, request
from .stored_jobs import picture_files


async def test_an_unfinished_job_without_its_source_is_returned_with_the_error(
    store: JobStore, tmp_path: Path
) -> None:
    lost = await store.add(new_job(request=request(source=pixels(8), strength=0.5)))
    whole = await store.add(new_job())
    for sha256 in picture_files(tmp_path):
        (tmp_path / "pictures" / sha256[:2] / f"{sha256}.png").unlink()
    with pytest.raises(PictureMissing, match="restore it from a backup"):
        await store.get(lost.id)
    assert await unfinished(store) == [whole]
    (job, fault), _ = await store.unfinished()
    assert (job.id, job.request.source) == (lost.id, None)
    assert isinstance(fault, PictureMissing)
    assert (await counts(store))[JobStatus.QUEUED] == 2
    # A generated job does not need its source.
    await store.start(lost.id)
    await store.complete(lost.id, finished(request()))
    assert [job.id for job in await unfinished(store)] == [lost.id, whole.id]
    assert [fault for _, fault in await store.unfinished()] == [None, None]


async def test_an_unreadable_row_stops_no_other_job(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [await store.add(new_job()) for _ in range(4)]
    strange, waiting, cancelled, removed = (job.id for job in jobs)
    await store.cancel(cancelled)
    await store.delete(removed)
    await store.set_message(removed, 5)

    def spoil(db: sqlite_utils.Database) -> None:
        for number in (strange, cancelled, removed):
            db.execute(
                "UPDATE jobs SET request = json_set(request, '$.steps', -1) WHERE id = ?", (number,)
            )

    await store._db.run(spoil)
    assert [job.id for job in await unfinished(store)] == [waiting]
    assert await store.unreported_cancellations() == await store.deleted_with_message() == []
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(" (")[0] for text in said] == [
        f"Job {number} cannot be read back" for number in (strange, cancelled, removed)
    ]
    with pytest.raises(JobUnreadable, match="another version"):
        await store.get(strange)


async def test_an_unreadable_source_stops_only_its_own_job(store: JobStore, tmp_path: Path) -> None:
    job = await store.add(new_job(request=request(source=pixels(8), strength=0.5)))
    whole = await store.add(new_job())
    (sha256,) = picture_files(tmp_path)
    file = tmp_path / "pictures" / sha256[:2] / f"{sha256}.png"
    kept = file.rename(tmp_path / "kept.png")
    # Permissions do not stop root, but reading a folder as a file fails.
    file.mkdir()
    (stranded, fault), _ = await store.unfinished()
    assert stranded.id == job.id
    assert isinstance(fault, FolderUnusable)
    assert await unfinished(store) == [whole]
    file.rmdir()
    kept.rename(file)
    assert await unfinished(store) == [job.without_pixels(), whole]


async def test_a_cancelled_job_is_reported_until_its_withdrawal_is_recorded(
    store: JobStore,
) -> None:
    ids = [(await store.add(new_job())).id for _ in range(4)]
    shown, hidden, deleted, _ = ids
    for job_id in (shown, hidden):
        await store.cancel(job_id)
    await store.delete(deleted)
    assert [job.id for job in await store.unreported_cancellations()] == [shown, hidden]
    await store.cancellation_reported(shown)
    assert [job.id for job in await store.unreported_cancellations()] == [hidden]


async def test_a_cancelled_job_is_reported_without_its_source(
    store: JobStore, tmp_path: Path
) -> None:
    job = await store.add(new_job(request=request(source=pixels(7), strength=0.5)))
    await store.cancel(job.id)
    assert picture_files(tmp_path) == set()
    (left,) = await store.unreported_cancellations()
    assert left.request.source is None
