"""The rate of progress edits, by the real clock."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable

from bot.delivery import throttle as throttle_module
from bot.delivery.throttle import ProgressThrottle
from bot.ui import messages
from generation.values.events import Event, Progress, Waiting
from generation.values.pixels import Pixels
from storage.records import Job

from ..ui.test_messages import JOB

OTHER = dataclasses.replace(JOB, id=43)
THIRD = dataclasses.replace(JOB, id=44)
ELSEWHERE = dataclasses.replace(JOB, id=45, channel_id=99)


class Shown:
    """What was edited: of which job, as which event, and at which time."""

    def __init__(self, *, succeeds: bool = True) -> None:
        self.edits: list[tuple[int, Event, float]] = []
        self._edited = asyncio.Event()
        self._succeeds = succeeds

    async def edit(self, job: Job, message_id: int, event: Event) -> bool:
        self.edits.append((job.id, event, asyncio.get_running_loop().time()))
        self._edited.set()
        return self._succeeds

    def of(self, job: Job) -> list[Event]:
        return [event for job_id, event, _ in self.edits if job_id == job.id]

    def first_time(self, job: Job) -> float:
        return next(time for job_id, _, time in self.edits if job_id == job.id)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await self._edited.wait()
                self._edited.clear()


@contextlib.asynccontextmanager
async def throttled(shown: Shown, seconds: float) -> AsyncIterator[ProgressThrottle]:
    throttle = ProgressThrottle(shown.edit, seconds)
    try:
        yield throttle
    finally:
        await throttle.close()


async def test_an_estimate_that_waits_for_its_turn_shrinks_and_runs_out() -> None:
    shown = Shown()
    began = asyncio.get_running_loop().time()
    async with throttled(shown, 0.25) as throttle:
        throttle.show(JOB, 1, Progress(1, 4, 10.0))
        throttle.show(OTHER, 2, Progress(1, 4, 10.0))
        throttle.show(THIRD, 3, Progress(1, 4, 0.1))
        throttle.show(ELSEWHERE, 4, Progress(1, 4, 10.0))
        await shown.until(lambda: shown.of(THIRD))
    waited = shown.first_time(OTHER) - began
    assert waited >= 0.24
    second = shown.of(OTHER)[0].seconds
    assert second is not None
    assert 9.9 - waited < second < 9.8
    assert shown.of(THIRD)[0].seconds is None
    assert shown.first_time(ELSEWHERE) < shown.first_time(OTHER) < shown.first_time(THIRD)


async def test_an_estimate_counts_down_by_itself_and_is_taken_back_when_it_has_run_out() -> None:
    shown = Shown()
    async with throttled(shown, 0.05) as throttle:
        throttle.show(JOB, 1, Progress(1, 4, 2.3))
        await shown.until(lambda: shown.of(JOB) and shown.of(JOB)[-1].seconds is None)
        texts = [messages.waiting(JOB, event).splitlines()[-1] for event in shown.of(JOB)]
        assert texts == [
            "▰▰▱▱▱▱▱▱▱▱ 25 % · about 2 s left · job 42",
            "▰▰▱▱▱▱▱▱▱▱ 25 % · about 1 s left · job 42",
            "▰▰▱▱▱▱▱▱▱▱ 25 % · a moment left · job 42",
            "▰▰▱▱▱▱▱▱▱▱ 25 % · job 42",
        ]
        await asyncio.sleep(0.3)
        assert len(shown.edits) == 4


async def test_counting_down_sends_no_preview_again() -> None:
    shown = Shown()
    preview = Pixels(1, 1, b"abc")
    async with throttled(shown, 0.05) as throttle:
        throttle.show(JOB, 1, Progress(1, 4, 1.6, preview))
        await shown.until(lambda: len(shown.edits) == 2)
    previews = [event.preview for event in shown.of(JOB) if isinstance(event, Progress)]
    assert previews == [preview, None]


async def test_news_go_before_estimates_that_count_down() -> None:
    shown = Shown()
    async with throttled(shown, 0.2) as throttle:
        throttle.show(JOB, 1, Waiting(3, 1.05))
        await shown.until(lambda: shown.edits)
        throttle.show(OTHER, 2, Waiting(4))
        await shown.until(lambda: len(shown.edits) == 3)
    assert [job_id for job_id, _, _ in shown.edits] == [JOB.id, OTHER.id, JOB.id]


async def test_places_of_many_hide_neither_progress_nor_estimates_that_have_run_out() -> None:
    shown = Shown()
    waiting = [dataclasses.replace(JOB, id=number) for number in range(50, 60)]
    async with throttled(shown, 0.05) as throttle:
        throttle.show(JOB, 1, Waiting(1, 0.1))
        await shown.until(lambda: shown.edits)
        for step in range(1, 9):
            throttle.show(OTHER, 2, Progress(step, 9))
            for place, job in enumerate(waiting, start=step):
                throttle.show(job, job.id, Waiting(place))
            before = len(shown.edits)
            await shown.until(lambda before=before: len(shown.edits) > before)
    assert len(shown.of(OTHER)) >= 2
    assert shown.of(JOB)[-1].seconds is None
    assert sum(bool(shown.of(job)) for job in waiting) >= 2


async def test_all_channels_together_are_edited_only_so_often() -> None:
    shown = Shown()
    async with throttled(shown, 0.01) as throttle:
        for number in range(6):
            throttle.show(dataclasses.replace(JOB, id=number, channel_id=number), 1, Progress(1, 4))
        await shown.until(lambda: len(shown.edits) == 6)
    times = sorted(time for _, _, time in shown.edits)
    assert times[-1] - times[0] >= 0.95 * 5 / throttle_module._EDITS_PER_SECOND


async def test_a_job_that_is_over_counts_down_no_more() -> None:
    shown = Shown()
    async with throttled(shown, 0.05) as throttle:
        throttle.show(JOB, 1, Waiting(3, 1.1))
        await shown.until(lambda: shown.edits)
        await throttle.drop(JOB)
        await asyncio.sleep(0.4)
        assert len(shown.edits) == 1


async def test_a_job_that_is_over_while_its_edit_is_under_way_counts_down_no_more() -> None:
    class Slow(Shown):
        async def edit(self, job: Job, message_id: int, event: Event) -> bool:
            await asyncio.sleep(0.1)
            return await super().edit(job, message_id, event)

    shown = Slow()
    async with throttled(shown, 0.05) as throttle:
        throttle.show(JOB, 1, Waiting(3, 1.1))
        await asyncio.sleep(0.05)
        await throttle.drop(JOB)
        assert len(shown.edits) == 1
        await asyncio.sleep(0.4)
        assert len(shown.edits) == 1


async def test_a_message_that_cannot_be_edited_is_left_alone_until_there_is_news() -> None:
    shown = Shown(succeeds=False)
    async with throttled(shown, 0.05) as throttle:
        throttle.show(JOB, 1, Waiting(3, 1.1))
        await asyncio.sleep(0.4)
        assert len(shown.edits) == 1
        throttle.show(JOB, 1, Waiting(2, 1.1))
        await shown.until(lambda: len(shown.edits) == 2)
