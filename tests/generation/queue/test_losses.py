"""Jobs that lose the engine or fail on it, and engines that cannot be loaded again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from generation.errors import (
    EngineFailed,
    EngineLost,
    GenerationError,
    ModelError,
    SetAside,
)
from generation.queue import engine_slot
from generation.queue.queue import GenerationQueue
from generation.queue.supervisor import JOB_FAILURES, JOBS_SET_ASIDE
from generation.queue.tickets import JobCancelled, QueueClosed
from generation.queue.turns import TURN_STEPS
from generation.timing import Measured

from ..queues import (
    PATIENCE,
    FakeEngine,
    FakeImage,
    Stage,
    at_most,
    failure_of,
    frail,
    seeds_of,
)


class TestLosingTheEngine:
    async def test_the_next_engine_runs_all_jobs_again_from_their_first_step(self) -> None:
        breaks = iter([False, False, True])
        async with frail(lambda where, _: where == "step" and next(breaks, False)) as (stage, made):
            tickets = [stage.submit(number, steps=4, count=2) for number in (10, 20, 30)]
            assert [await seeds_of(ticket) for ticket in tickets] == [[10, 11], [20, 21], [30, 31]]
            assert len(made) == 2
            assert Counter(made[1].begun).keys() == {10, 20, 30}
            assert made[0].is_closed

    @pytest.mark.parametrize("where", ["begin", "step", "finish"])
    async def test_a_job_that_loses_the_engine_twice_is_set_aside(self, where: str) -> None:
        async with frail(lambda at, seeds: at == where and 2 in seeds) as (stage, made):
            tickets = {number: stage.submit(number, steps=40) for number in (1, 2, 3, 4, 5)}
            assert isinstance(await failure_of(tickets[2]), SetAside)
            for number in (1, 3, 4, 5):
                assert await seeds_of(tickets[number]) == [number]
            assert len(made) == 3

    async def test_a_job_that_loses_the_engine_late_is_found_too(self) -> None:
        """In the middle of its second turn, if it had to leave the engine to others."""
        steps: Counter[int] = Counter()

        def lost(where: str, seeds: list[int]) -> bool:
            if where == "begin":
                steps[2] *= 2 not in seeds
            elif where == "step" and 2 in seeds:
                steps[2] += 1
            return where == "step" and 2 in seeds and steps[2] > TURN_STEPS + 10

        async with frail(lost) as (stage, made):
            tickets = {number: stage.submit(number, steps=60) for number in range(1, 8)}
            assert isinstance(await failure_of(tickets[2]), SetAside)
            for number in (1, 3, 4, 5, 6, 7):
                assert await seeds_of(tickets[number]) == [number]
            assert len(made) == 3

    async def test_an_engine_that_cannot_begin_any_job_is_given_up(self) -> None:
        async with frail(lambda where, _: where == "begin") as (stage, _):
            tickets = [stage.submit(number) for number in range(1, 9)]
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(EngineFailed, match="several times in a row"):
                    await stage.queue.died()
            # Those that are left are made by the next start of the bot.
            left = [ticket for ticket in tickets if not ticket.images.done()]
            assert len(left) >= 2
        for ticket in left:
            assert isinstance(await failure_of(ticket), QueueClosed)

    async def test_a_cancelled_job_does_not_run_again(self) -> None:
        breaks = iter([True])
        async with frail(lambda where, _: where == "step" and next(breaks, False)) as (stage, made):
            made[0].open = False
            tickets = [stage.submit(number, steps=4) for number in (1, 2)]
            await stage.at_gate()
            assert stage.queue.cancel(1)
            made[0].open_gates()
            assert isinstance(await failure_of(tickets[0]), JobCancelled)
            assert await seeds_of(tickets[1]) == [2]
            assert 1 not in made[1].begun


class TestSeveralGuiltyJobs:
    @pytest.mark.parametrize("poison", [{1, 2}, {1, 2, 3}, {2, 4}])
    async def test_each_is_set_aside_and_the_others_are_made(self, poison: set[int]) -> None:
        async with frail(lambda where, seeds: where == "step" and bool(poison & {*seeds})) as (
            stage,
            _,
        ):
            tickets = {number: stage.submit(number, steps=3) for number in (1, 2, 3, 4, 5)}
            for number in poison:
                assert isinstance(await failure_of(tickets[number]), SetAside)
            for number in tickets.keys() - poison:
                assert await seeds_of(tickets[number]) == [number]

    # Where pictures cannot be decoded each job takes all its steps before the engine is lost.
    @pytest.mark.parametrize("breaking", ["step", "finish"])
    async def test_if_all_jobs_lose_the_engine_it_is_given_up(self, breaking: str) -> None:
        async with frail(lambda where, _: where == breaking) as (stage, _):
            tickets = [stage.submit(number) for number in range(12)]
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(EngineFailed, match="several times in a row"):
                    await stage.queue.died()
            assert sum(ticket.images.done() for ticket in tickets) == JOBS_SET_ASIDE


@dataclass
class Spoiled(FakeEngine):
    """Raises at each step, as one does whose device has had enough."""

    def step(self, images: Sequence[FakeImage]) -> None:
        raise RuntimeError("GET was unable to find an engine to execute this computation")


class TestFailingAtEverything:
    @pytest.fixture(autouse=True)
    def _quiet(self) -> Iterator[None]:
        logging.disable(logging.ERROR)
        yield
        logging.disable(logging.NOTSET)

    async def test_after_several_failures_in_a_row_the_engine_is_replaced(self) -> None:
        engines = [Spoiled(open=True), FakeEngine(open=True)]
        waiting = iter(engines)
        async with GenerationQueue(lambda: next(waiting), limits_for=at_most(9)) as queue:
            stage = Stage(queue, engines[0])
            for number in range(1, JOB_FAILURES):
                assert isinstance(await failure_of(stage.submit(number)), EngineFailed)
            assert await seeds_of(stage.submit(8)) == [8]

    async def test_pictures_between_failures_keep_the_engine(self) -> None:
        broken = {("step", number): RuntimeError("shapes do not match") for number in range(10)}
        engine = FakeEngine(open=True, failures=broken)
        async with GenerationQueue(lambda: engine, limits_for=at_most(9)) as queue:
            stage = Stage(queue, engine)
            for number in range(2 * JOB_FAILURES):
                assert isinstance(await failure_of(stage.submit(number)), EngineFailed)
                assert await seeds_of(stage.submit(50 + number)) == [50 + number]
        assert max(Counter(engine.begun).values()) == 1


@dataclass
class Once(FakeEngine):
    """Is lost at its first step; the next ones cannot be loaded so many times."""

    refusals: list[GenerationError] = field(default_factory=list)
    made: int = 0
    loaded: int = 0

    def measured(self) -> Measured:
        self.made += 1
        if self.made > 1 and self.refusals:
            raise self.refusals.pop()
        self.loaded += 1
        return super().measured()

    def step(self, images: Sequence[FakeImage]) -> None:
        if self.loaded == 1:
            raise EngineLost("The engine is lost: its process ended with exit code -9.")
        super().step(images)


@dataclass
class HangsWhenIdle(FakeEngine):
    made: int = 0
    again: threading.Event = field(default_factory=threading.Event)

    def measured(self) -> Measured:
        self.made += 1
        if self.made == 2:
            self.again.set()
        return super().measured()

    def release_unused(self) -> None:
        if self.made == 1:
            raise EngineLost("The engine is lost: it did not answer for 5 s.")


class TestLoadingAgain:
    @pytest.fixture(autouse=True)
    def _hurried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_slot, "_RETRY_DELAYS", (0, 0.01, 0.02))

    async def test_a_failed_load_is_tried_again(self) -> None:
        busy: list[GenerationError] = [ModelError("It does not fit."), EngineLost("It is lost.")]
        engine = Once(open=True, refusals=busy)
        async with GenerationQueue(lambda: engine, limits_for=at_most(9)) as queue:
            assert await seeds_of(Stage(queue, engine).submit(7)) == [7]
        assert engine.made == 4

    async def test_an_idle_engine_that_hangs_is_replaced_at_once(self) -> None:
        engine = HangsWhenIdle(open=True)
        async with GenerationQueue(lambda: engine, limits_for=at_most(9)) as queue:
            assert await asyncio.to_thread(engine.again.wait, PATIENCE)
            assert await seeds_of(Stage(queue, engine).submit(7)) == [7]
        assert engine.made == 2

    async def test_after_the_last_retry_the_error_is_reported(self) -> None:
        engine = Once(open=True, refusals=[ModelError("It does not fit.") for _ in range(3)])
        async with GenerationQueue(lambda: engine, limits_for=at_most(9)) as queue:
            Stage(queue, engine).submit(7)
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(ModelError, match="does not fit"):
                    await queue.died()
