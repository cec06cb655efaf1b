"""Jobs that share the engine's steps, and engines that are lost: the queue with several rows."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter

import pytest

from generation.errors import (
    EngineFailed,
)
from generation.queue.turns import TURN_STEPS
from generation.values.events import Event, Progress, Waiting
from generation.values.pixels import Pixels

from ..examples import a_request
from ..queues import (
    EventLog,
    FakeEngine,
    FakeImage,
    a_stage,
    failure_of,
    seeds_of,
    several,
)


class TestSharing:
    async def test_jobs_join_and_leave_between_two_steps(self) -> None:
        async with several() as stage:
            first = stage.submit(1, steps=4)
            await stage.at_gate()
            second = stage.submit(2, steps=2)
            stage.engine.open_gates()
            assert [await seeds_of(ticket) for ticket in (first, second)] == [[1], [2]]
            assert stage.engine.calls == [[1], [1, 2], [1, 2], [1]]
            assert stage.told[2].events == [Progress(step, 2) for step in range(3)]

    async def test_as_many_jobs_run_as_the_capacity_allows(self) -> None:
        async with several() as stage:
            tickets = [stage.submit(number, steps=3) for number in range(1, 7)]
            stage.engine.open_gates()
            assert [await seeds_of(ticket) for ticket in tickets] == [[n] for n in range(1, 7)]
            assert max(len(call) for call in stage.engine.calls) == 4

    async def test_two_hundred_jobs_of_one_member_delay_another_only_by_running_jobs(self) -> None:
        async with several() as stage:
            hog = [stage.submit(number, member="hog") for number in range(200)]
            await stage.at_gate()
            other = stage.submit(500, member="other")
            stage.engine.open_gates()
            assert await seeds_of(other) == [500]
            assert stage.engine.begun.index(500) <= 4
            assert [await seeds_of(ticket) for ticket in hog] == [[n] for n in range(200)]

    async def test_a_short_job_is_not_stuck_behind_long_jobs_which_begin_only_once(self) -> None:
        async with several() as stage:
            long = [stage.submit(number, steps=150, member=str(number)) for number in range(1, 7)]
            await stage.at_gate()
            short = stage.submit(9, steps=3, member="short")
            ended: list[int] = []
            for number, ticket in ((9, short), *enumerate(long, start=1)):
                ticket.images.add_done_callback(lambda _, n=number: ended.append(n))
            # Step by step: the event loop must not fall behind the engine, or turns end late.
            while not short.images.done():
                stage.engine.allow()
                await stage.at_gate()
            stage.engine.open_gates()
            assert await seeds_of(short) == [9]
            assert [await seeds_of(ticket) for ticket in long] == [[n] for n in range(1, 7)]
            assert ended[0] == 9
            assert sorted(stage.engine.begun) == [1, 2, 3, 4, 5, 6, 9]
            # The short one had its steps after one turn of those who came before, or two.
            turns = [number for number, call in enumerate(stage.engine.calls) if 9 in call]
            assert max(turns) <= 3 * TURN_STEPS
            assert stage.told[1].events[-1] == Progress(150, 150)
            assert Counter(n for call in stage.engine.calls for n in call)[1] == 150

    async def test_sizes_alternate_by_the_cost_of_their_steps(self) -> None:
        async with several() as stage:
            small = stage.submit(1, steps=28, member="small")
            large = stage.submit(2, steps=28, width=128, height=128, member="large")
            stage.engine.open_gates()
            assert [await seeds_of(ticket) for ticket in (small, large)] == [[1], [2]]
            calls = [call for call in stage.engine.calls if len(call) == 1]
            assert calls == stage.engine.calls
            # A step of the large one costs four of the small one's.
            until = calls[: calls.index([2]) + 20]
            assert until.count([1]) >= 3 * until.count([2])

    async def test_pictures_of_a_job_share_steps_and_keep_their_order(self) -> None:
        async with several() as stage:
            tickets = [stage.submit(10, count=3), stage.submit(20, count=2)]
            stage.engine.open_gates()
            assert [await seeds_of(ticket) for ticket in tickets] == [[10, 11, 12], [20, 21]]

    async def test_events_carry_estimates_and_previews(self) -> None:
        async with a_stage(FakeEngine(rows=2)) as stage:
            await stage.queue.ready()
            ticket, waiting = stage.submit(1, steps=3), stage.submit(2, steps=3)
            await asyncio.sleep(0)
            [event] = stage.told[2].events
            assert isinstance(event, Waiting)
            assert event.seconds == pytest.approx(6 * 0.01, rel=0.5)
            stage.engine.open_gates()
            await seeds_of(ticket)
            await seeds_of(waiting)
            told = [event for event in stage.told[1].events if isinstance(event, Progress)]
            assert all(event.seconds is not None and event.seconds >= 0 for event in told)
            assert told[0].preview is None
            assert isinstance(told[1].preview, Pixels)


class TestAlone:
    async def test_a_job_alone_runs_before_all_waiting_jobs_with_no_other_beside_it(self) -> None:
        async with several(FakeEngine(rows=8)) as stage:
            first = stage.submit(1, steps=2)
            await stage.at_gate()
            stage.queue.submit(9, a_request(seed=9, steps=3), EventLog(), alone=True)
            others = [stage.submit(number, steps=2) for number in (2, 3)]
            stage.engine.open_gates()
            for ticket in (first, *others):
                await seeds_of(ticket)
            assert stage.engine.calls == [[1]] * 2 + [[9]] * 3 + [[2, 3]] * 2

    async def test_cancelling_a_job_alone_lets_other_jobs_start_at_once(self) -> None:
        async with several(FakeEngine(rows=8)) as stage:
            first = stage.submit(1, steps=9)
            await stage.at_gate()
            stage.queue.submit(9, a_request(seed=9, steps=3), EventLog(), alone=True)
            other = stage.submit(2, steps=2)
            assert stage.queue.cancel(9)
            stage.engine.open_gates()
            await seeds_of(first)
            await seeds_of(other)
            assert stage.engine.calls == [[1], *[[1, 2]] * 2, *[[1]] * 6]


class TestAnEngineThreadThatIsAhead:
    async def test_a_job_that_ends_before_its_turn_does_is_forgotten(self) -> None:
        """The event loop is held up while the engine takes all steps of a job."""
        async with a_stage(FakeEngine(rows=2, open=True)) as stage:
            await stage.queue.ready()
            held = threading.Event()

            def hold_up(_: Event) -> None:
                if not held.is_set():
                    held.set()
                    time.sleep(0.3)

            request = a_request(seed=1, steps=TURN_STEPS + 20)
            first = stage.queue.submit(1, request, hold_up)
            second = stage.submit(2)
            assert await seeds_of(first) == [1]
            assert await seeds_of(second) == [2]
            assert stage.queue.waiting == 0
            assert await seeds_of(stage.submit(3)) == [3]

    async def test_a_failed_preview_does_not_fail_the_job(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Blind(FakeEngine):
            def preview(self, image: FakeImage) -> Pixels | None:
                raise RuntimeError("no colours")

        async with several(Blind(rows=8, open=True)) as stage:
            assert await seeds_of(stage.submit(1)) == [1]
        assert "There is no preview of job 1" in caplog.text


class TestBreaking:
    @pytest.mark.parametrize("where", ["begin", "step", "finish"])
    async def test_of_jobs_that_fail_together_only_the_guilty_one_ends(self, where: str) -> None:
        failures: dict[tuple[str, int], Exception] = {(where, 2): RuntimeError("broken")}
        logging.disable(logging.ERROR)
        try:
            async with several(FakeEngine(failures, rows=8)) as stage:
                tickets = {number: stage.submit(number, steps=3) for number in (1, 2, 3)}
                stage.engine.open_gates()
                assert isinstance(await failure_of(tickets[2]), EngineFailed)
                assert [await seeds_of(tickets[number]) for number in (1, 3)] == [[1], [3]]
        finally:
            logging.disable(logging.NOTSET)
