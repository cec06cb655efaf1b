"""What happens while another program holds the database, such as a browser or a VACUUM."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from bot import client
from storage.errors import DatabaseUnusable
from storage.states import JobStatus

from ..stage import GatedEngine, Stage, pictures


class Intruder:
    """Another program's connection to the bot's database."""

    def __init__(self, stage: Stage) -> None:
        self._file = stage.bot.service.jobs._db.path
        self._connection: sqlite3.Connection | None = None

    def lock(self) -> None:
        self._connection = sqlite3.connect(self._file, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@pytest.fixture
def intruder(stage: Stage) -> Iterator[Intruder]:
    found = Intruder(stage)
    yield found
    found.leave()


async def hurry(stage: Stage) -> None:
    """Have the database wait for a lock as shortly as a test can bear."""
    await stage.bot.service.jobs._db.run(
        lambda db: db.execute("PRAGMA busy_timeout = 20").fetchone() and None
    )


async def status(stage: Stage) -> JobStatus:
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    return job.status


async def test_pictures_that_are_shown_stay_while_their_delivery_cannot_be_recorded(
    stage: Stage, intruder: Intruder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hurry(stage)
    deliver = stage.bot.courier.deliver

    async def delivering(*arguments: Any) -> None:
        await deliver(*arguments)
        intruder.lock()

    monkeypatch.setattr(stage.bot.courier, "deliver", delivering)
    message = await stage.imagine()
    await asyncio.sleep(0.5)
    intruder.leave()
    while await status(stage) is not JobStatus.DELIVERED:
        await stage.env.settle()
    assert len(pictures(stage.look(message.id))) == 1


async def test_a_job_whose_pictures_cannot_be_stored_yet_waits_and_is_not_failed(
    stage: Stage, gate: GatedEngine, intruder: Intruder
) -> None:
    await hurry(stage)
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.until(lambda: " 0 %" in stage.look(result.response.id).content)
    intruder.lock()
    gate.open()
    await asyncio.sleep(1.0)
    assert not pictures(stage.look(result.response.id))
    intruder.leave()
    await stage.finished(result.response.id)


async def test_jobs_from_before_are_taken_up_when_the_database_can_be_read_again(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    faults = [DatabaseUnusable(stage.settings.data, "cannot be read")]
    resume = client.ImagineService.resume

    async def resuming(service: client.ImagineService) -> int:
        if faults:
            raise faults.pop()
        return await resume(service)

    monkeypatch.setattr(client.ImagineService, "resume", resuming)
    monkeypatch.setattr(client, "_RESUME_SECONDS", 0.1)
    closing = stage.restart()
    gate.open()
    await closing
    await stage.finished(result.response.id)
    assert not faults
