"""What waits in the queue is without the pixels that it starts from: they may be very many."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import discord
import pytest

from generation.values.pixels import Pixels
from storage.errors import DatabaseBusy
from storage.jobs import JobStore

from ..stage import GatedEngine, Stage, pictures

VARIATIONS = 4
SIDE = 128


def held() -> int:
    """Return how many pictures of the size of a source are in memory."""
    gc.collect()
    # Not by `isinstance`, which some lazy modules take for a use of them.
    return sum(type(one) is Pixels and one.width == SIDE for one in gc.get_objects())


async def ask(stage: Stage, gate: GatedEngine) -> list[discord.Message]:
    """Have Alice ask for variations of a picture while the engine is busy with another job."""
    first = await stage.imagine()
    gate.shut()
    await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    known = {message.id for message in stage.messages()}
    for _ in range(VARIATIONS):
        await stage.alice.click(first, custom_id="vary:1:1")

    def variations() -> list[discord.Message] | None:
        new = [message for message in stage.messages() if message.id not in known]
        return new if len(new) == VARIATIONS else None

    return await stage.until(variations)


async def test_the_sources_of_waiting_jobs_are_not_in_memory(
    stage: Stage, gate: GatedEngine
) -> None:
    variations = await ask(stage, gate)
    await stage.until(lambda: held() == 0)
    gate.open()
    for message in variations:
        assert pictures(await stage.finished(message.id))


async def test_nor_are_they_after_a_restart(stage: Stage, gate: GatedEngine) -> None:
    variations = await ask(stage, gate)
    closing = stage.restart()
    gate.open()
    gate.shut()
    await closing
    await stage.until(lambda: stage.bot.service._under_way)
    await stage.until(lambda: held() == 0)
    gate.open()
    for message in variations:
        assert pictures(await stage.finished(message.id))


async def test_a_source_that_is_lost_while_its_job_waits_ends_that_job_alone(
    stage: Stage, gate: GatedEngine
) -> None:
    variations = await ask(stage, gate)
    for file in (stage.settings.data / "pictures").rglob("*.png"):
        file.unlink()
    gate.open()
    for message in variations:
        await stage.until(lambda one=message.id: "is missing" in stage.look(one).content)
    assert pictures(await stage.imagine("owl face"))


async def test_a_source_that_cannot_be_read_now_has_its_job_wait(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    variations = await ask(stage, gate)
    read: Callable[[JobStore, int], Any] = JobStore.request_of
    faults = [DatabaseBusy(stage.settings.data)]

    async def request_of(store: JobStore, job_id: int) -> Any:
        if faults:
            raise faults.pop()
        return await read(store, job_id)

    monkeypatch.setattr(JobStore, "request_of", request_of)
    gate.open()
    for message in variations:
        assert pictures(await stage.finished(message.id))
    assert not faults
