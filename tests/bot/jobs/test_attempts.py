"""How often a job was begun when the bot ended, and what a start does about that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bot.jobs import recovery
from generation.queue.queue import GenerationQueue
from storage.states import JobStatus

from ...storage.inspection import counts
from ..stage import GatedEngine, Stage


async def _end_like_a_crash(stage: Stage) -> None:
    """Cancel the tasks of all jobs, so that nothing of an orderly stop is recorded."""
    for task in list(stage.bot.service._background._tasks):
        task.cancel()
    await asyncio.sleep(0)


async def _crash_with_one_running_and_one_waiting(stage: Stage, gate: GatedEngine) -> list[int]:
    """Return the ids of the two jobs' messages."""
    gate.shut()
    first = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.until(lambda: " 0 %" in stage.look(first.response.id).content)
    second = await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    await _end_like_a_crash(stage)
    return [first.response.id, second.response.id]


async def _attempts(stage: Stage) -> int:
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    return job.attempts


@pytest.mark.parametrize(("crashes", "attempts"), [(False, 1), (True, 2)])
async def test_only_what_ends_the_bot_counts_as_an_attempt(
    stage: Stage, gate: GatedEngine, crashes: bool, attempts: int
) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", steps=100)
    await stage.until(lambda: " 0 %" in stage.look(result.response.id).content)
    if crashes:
        await _end_like_a_crash(stage)
    closing = stage.restart()
    gate.open()
    await closing
    await stage.finished(result.response.id)
    assert await _attempts(stage) == attempts


async def test_a_job_that_may_have_ended_the_bot_is_made_with_nobody_beside_it(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_SUSPECT_ATTEMPTS", 1)
    first, second = await _crash_with_one_running_and_one_waiting(stage, gate)
    submitted: dict[int, bool] = {}
    submit = GenerationQueue.submit

    def noting(queue: Any, job_id: int, *arguments: Any, alone: bool, **options: Any) -> Any:
        submitted[job_id] = alone
        return submit(queue, job_id, *arguments, alone=alone, **options)

    monkeypatch.setattr(GenerationQueue, "submit", noting)
    closing = stage.restart()
    gate.open()
    await closing
    for message_id in (first, second):
        await stage.finished(message_id)
    assert submitted == {1: True, 2: False}


async def test_a_job_that_has_ended_the_bot_again_and_again_is_quarantined(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_MAX_ATTEMPTS", 1)
    first, second = await _crash_with_one_running_and_one_waiting(stage, gate)
    closing = stage.restart()
    gate.open()
    await closing
    await stage.until(lambda: "more than once" in stage.look(first).content)
    await stage.finished(second)
    await stage.until(lambda: not stage.bot.service._under_way)
    assert (await counts(stage.bot.service.jobs))[JobStatus.FAILED] == 1
