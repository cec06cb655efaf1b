"""A really full disk: what the bot says, and what happens to its jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.config import Settings
from bot.jobs import disk as disk_module
from bot.jobs.disk import DiskGuard
from generation.images.png import read_png
from storage.errors import DatabaseUnusable, DiskFull
from storage.folder.space import Space, free_bytes
from storage.jobs import JobStore
from storage.states import JobStatus

from ...storage.faults.disks import fill, small_disk
from ...storage.inspection import counts
from ..stage import GatedEngine, Stage

MB = 2**20
SAID = "My disk is full, so I accept no new jobs; ask the operator to make room, then try again."

WAITS = (
    "My disk cannot store these pictures now; they follow as soon as the operator makes room or "
    "fixes the disk · job"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4) as folder:
        yield folder


@pytest.fixture
def settings(disk: Path) -> Settings:
    return Settings(data=disk, steps=2, progress_seconds=0.2, min_free_mb=1)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("bot") and record.levelno >= logging.WARNING
    ]


async def one_at_work(stage: Stage, gate: GatedEngine) -> Any:
    """Return what answers a request for a rabbit, which the engine is held up with."""
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", seed=3)
    await stage.until(lambda: " 0 %" in stage.look(result.response.id).content)
    return result


async def test_a_nearly_full_disk_takes_no_jobs_until_there_is_room(
    stage: Stage, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = await stage.imagine("rabbit face")
    ballast = fill(disk, leave=MB // 2)
    for _ in range(2):
        refused = await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
        assert refused.ephemeral
        assert refused.response.content == SAID
    await stage.bob.react(picture, "🔁")
    assert stage.messages()[-1].content == f"{stage.bob.mention}: {SAID}"
    folder = disk / "pictures"
    said = f"The disk that holds {folder} has only 0 MB left; free some space and try again."
    assert complaints(caplog) == [f"No more jobs are accepted. {said}"]

    ballast.unlink()
    await stage.imagine("cat face")
    assert complaints(caplog)[1:] == ["There is room on the disk again, and jobs are accepted"]
    assert sum((await counts(stage.bot.service.jobs)).values()) == 2

    fill(disk, leave=MB // 2)
    await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    assert len(complaints(caplog)) == 3


async def test_pictures_that_find_no_room_are_delivered_when_there_is_some(
    stage: Stage, gate: GatedEngine, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate.shut()
    results = [
        await stage.alice.slash(stage.channel, "imagine", prompt=prompt, seed=seed, count=2)
        for seed, prompt in ((3, "rabbit face"), (8, "cat face"))
    ]
    await stage.until(lambda: " 0 %" in stage.look(results[0].response.id).content)
    ballast = fill(disk)
    gate.open()
    await stage.until(lambda: complaints(caplog))
    for result in results:
        await stage.until(lambda known=result.response.id: WAITS in stage.look(known).content)
    await asyncio.sleep(1.5)
    assert all(WAITS in message.content for message in stage.messages())
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.status in (JobStatus.QUEUED, JobStatus.RUNNING)

    ballast.unlink()
    for seed, result in zip((3, 8), results, strict=True):
        files = (await stage.finished(result.response.id)).attachments
        assert [read_png(await file.read())[1].seed for file in files] == [seed, seed + 1]
    assert len(complaints(caplog)) == 1


async def test_what_waits_for_room_when_the_bot_stops_is_delivered_by_the_next_start(
    stage: Stage, gate: GatedEngine, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = await one_at_work(stage, gate)
    ballast = fill(disk)
    gate.open()
    await stage.until(lambda: WAITS in stage.look(result.response.id).content)
    began = asyncio.get_running_loop().time()
    await stage.bot.close()
    assert asyncio.get_running_loop().time() - began < 8
    ballast.unlink()
    await stage.restart()
    (file,) = (await stage.finished(result.response.id)).attachments
    assert read_png(await file.read())[1].seed == 3
    assert len(stage.messages()) == 1


async def test_what_was_too_much_to_hold_is_made_again_when_there_is_room(
    stage: Stage, gate: GatedEngine, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_HELD_MAX", 0)
    result = await one_at_work(stage, gate)
    ballast = fill(disk)
    gate.open()
    await stage.until(lambda: WAITS in stage.look(result.response.id).content)
    await stage.until(lambda: not stage.bot.service._under_way)
    ballast.unlink()
    (file,) = (await stage.finished(result.response.id)).attachments
    assert read_png(await file.read())[1].seed == 3
    assert len(stage.messages()) == 1


async def test_a_folder_that_cannot_be_written_takes_no_jobs_and_loses_none(
    stage: Stage, gate: GatedEngine, disk: Path
) -> None:
    result = await one_at_work(stage, gate)
    pictures = disk / "pictures"
    # Root, whom no permission stops, can write no files in a file either.
    kept = pictures.rename(disk / "kept")
    pictures.touch()
    gate.open()
    await stage.until(lambda: WAITS in stage.look(result.response.id).content)
    refused = await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    assert refused.ephemeral
    assert refused.response.content.startswith("I cannot read or write my pictures now")
    pictures.unlink()
    kept.rename(pictures)
    (file,) = (await stage.finished(result.response.id)).attachments
    assert read_png(await file.read())[1].seed == 3


async def test_a_job_that_cannot_be_recorded_as_begun_leaves_the_engine(
    stage: Stage, gate: GatedEngine, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: JobStore, job_id: int) -> bool:
        raise DatabaseUnusable(disk, "cannot be read or written; check the disk")

    monkeypatch.setattr(JobStore, "start", fail)
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", seed=3)
    await stage.until(lambda: "⚠️" in stage.look(result.response.id).content)
    gate.open()
    await stage.until(lambda: not stage.bot.service._queue._turns.running)
    await asyncio.sleep(1)
    assert "⚠️" in stage.look(result.response.id).content


async def test_a_delivery_that_cannot_be_recorded_is_recorded_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, disk: Path
) -> None:
    attempts = []
    record = JobStore.delivered

    async def refuse_once(self: JobStore, job_id: int, message_id: int) -> bool:
        attempts.append(job_id)
        if len(attempts) == 1:
            raise DiskFull(disk)
        return await record(self, job_id, message_id)

    monkeypatch.setattr(JobStore, "delivered", refuse_once)
    message = await stage.imagine("rabbit face")
    await stage.until(lambda: len(attempts) == 2)
    await stage.until(lambda: not stage.bot.service._under_way)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert (job.status, job.message_id) == (JobStatus.DELIVERED, message.id)
    assert "⚠️" not in stage.look(message.id).content


@pytest.fixture
def refusing(tmp_path: Path) -> Callable[[], Awaitable[None]]:
    async def write() -> None:
        raise DiskFull(tmp_path)

    return write


async def test_more_pictures_than_memory_should_hold_are_not_waited_with(
    tmp_path: Path, refusing: Callable[[], Awaitable[None]]
) -> None:
    guard = DiskGuard(Space(tmp_path, 0))
    first = asyncio.ensure_future(guard.retry(refusing, held=300 * MB))
    await asyncio.sleep(0.05)
    told = []

    async def tell() -> None:
        told.append("it waits")

    with pytest.raises(DiskFull):
        await guard.retry(refusing, held=300 * MB, on_wait=tell)
    assert told == ["it waits"]
    second = asyncio.ensure_future(guard.retry(refusing, held=200 * MB))
    await asyncio.sleep(0.05)
    assert not first.done()
    assert not second.done()
    guard.close()
    for waiting in (first, second):
        with pytest.raises(DiskFull):
            await asyncio.wait_for(waiting, 5)


async def test_a_reserve_of_nothing_is_always_free(tmp_path: Path) -> None:
    async def write() -> str:
        return "accepted"

    assert await DiskGuard(Space(tmp_path, 0)).admit(write) == "accepted"
    with pytest.raises(DiskFull):
        await DiskGuard(Space(tmp_path, 2 * free_bytes(tmp_path))).admit(write)
