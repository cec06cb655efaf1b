"""Jobs that share the engine's steps, and engines that are lost: the queue with several rows."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.errors import EngineFailed, EngineLost, GenerationError, SetAside
from generation.queue.queue import GenerationQueue
from generation.queue.tickets import JobCancelled, QueueClosed, Ticket
from generation.queue.turns import TURN_STEPS
from generation.timing import Measured
from generation.values.events import Event, Progress, Waiting
from generation.values.pixels import Pixels
from generation.values.request import GenerationRequest

from ..examples import a_request
from ..queues import PATIENCE, FakeEngine, FakeImage, Stage, Told, a_stage, failure_of, seeds_of


@asynccontextmanager
async def several(engine: FakeEngine | None = None) -> AsyncIterator[Stage]:
    """Open a queue on an engine with room for four guided images at a time."""
    async with a_stage(engine or FakeEngine(rows=8), limit=1_000) as stage:
        await stage.queue.ready()
        yield stage


class TestSharing:
    async def test_jobs_join_and_leave_between_two_steps(self) -> None:
        async with several() as stage:
            first = stage.submit(1, steps=4)
            await stage.at_gate()
            second = stage.submit(2, steps=2)
            stage.engine.let_go()
            assert [await seeds_of(ticket) for ticket in (first, second)] == [[1], [2]]
            assert stage.engine.calls == [[1], [1, 2], [1, 2], [1]]
            assert stage.told[2].events == [Progress(step, 2) for step in range(3)]

    async def test_as_many_run_as_have_room(self) -> None:
        async with several() as stage:
            tickets = [stage.submit(number, steps=3) for number in range(1, 7)]
            stage.engine.let_go()
            assert [await seeds_of(ticket) for ticket in tickets] == [[n] for n in range(1, 7)]
            assert max(len(call) for call in stage.engine.calls) == 4

    async def test_two_hundred_jobs_of_one_delay_another_by_those_that_run(self) -> None:
        async with several() as stage:
            hog = [stage.submit(number, member="hog") for number in range(200)]
            await stage.at_gate()
            other = stage.submit(500, member="other")
            stage.engine.let_go()
            assert await seeds_of(other) == [500]
            assert stage.engine.begun.index(500) <= 4
            assert [await seeds_of(ticket) for ticket in hog] == [[n] for n in range(200)]

    async def test_few_steps_are_not_stuck_behind_many_which_are_begun_only_once(self) -> None:
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
            stage.engine.let_go()
            assert await seeds_of(short) == [9]
            assert [await seeds_of(ticket) for ticket in long] == [[n] for n in range(1, 7)]
            assert ended[0] == 9
            assert sorted(stage.engine.begun) == [1, 2, 3, 4, 5, 6, 9]
            # The short one had its steps after one turn of those who came before, or two.
            turns = [number for number, call in enumerate(stage.engine.calls) if 9 in call]
            assert max(turns) <= 3 * TURN_STEPS
            assert stage.told[1].events[-1] == Progress(150, 150)
            assert Counter(n for call in stage.engine.calls for n in call)[1] == 150

    async def test_sizes_take_turns_by_what_their_steps_cost(self) -> None:
        async with several() as stage:
            small = stage.submit(1, steps=28, member="small")
            large = stage.submit(2, steps=28, width=128, height=128, member="large")
            stage.engine.let_go()
            assert [await seeds_of(ticket) for ticket in (small, large)] == [[1], [2]]
            calls = [call for call in stage.engine.calls if len(call) == 1]
            assert calls == stage.engine.calls
            # A step of the large one costs four of the small one's.
            until = calls[: calls.index([2]) + 20]
            assert until.count([1]) >= 3 * until.count([2])

    async def test_pictures_of_a_job_share_its_steps_and_come_in_their_order(self) -> None:
        async with several() as stage:
            tickets = [stage.submit(10, count=3), stage.submit(20, count=2)]
            stage.engine.let_go()
            assert [await seeds_of(ticket) for ticket in tickets] == [[10, 11, 12], [20, 21]]

    async def test_news_say_how_long_it_takes_and_what_it_looks_like(self) -> None:
        async with a_stage(FakeEngine(rows=2)) as stage:
            await stage.queue.ready()
            ticket, waiting = stage.submit(1, steps=3), stage.submit(2, steps=3)
            await asyncio.sleep(0)
            [news] = stage.told[2].events
            assert isinstance(news, Waiting)
            assert news.seconds == pytest.approx(6 * 0.01, rel=0.5)
            stage.engine.let_go()
            await seeds_of(ticket)
            await seeds_of(waiting)
            told = [event for event in stage.told[1].events if isinstance(event, Progress)]
            assert all(event.seconds is not None and event.seconds >= 0 for event in told)
            assert told[0].preview is None
            assert isinstance(told[1].preview, Pixels)


class TestCancellingOneOfSeveral:
    async def test_a_running_one_leaves_after_its_step_and_the_others_go_on(self) -> None:
        async with several() as stage:
            tickets = {number: stage.submit(number, steps=5) for number in (1, 2, 3)}
            await stage.at_gate()
            stage.engine.allow()
            await stage.at_gate()
            assert stage.queue.cancel(2)
            stage.engine.let_go()
            assert isinstance(await failure_of(tickets[2]), JobCancelled)
            assert [await seeds_of(tickets[number]) for number in (1, 3)] == [[1], [3]]
            assert sum(2 in call for call in stage.engine.calls) <= 3
            assert sorted(stage.engine.begun) == [1, 2, 3]

    async def test_one_that_is_cancelled_while_it_is_taken_in_lets_go_of_its_room(self) -> None:
        class Late(threading.Event):
            """Is set right after it was asked, as the event loop can."""

            def is_set(self) -> bool:
                was_set = super().is_set()
                self.set()
                return was_set

        async with several() as stage:
            first = stage.submit(1, steps=3)
            await stage.at_gate()
            ticket = stage.submit(2)
            ticket.cancelled = Late()
            stage.engine.let_go()
            assert isinstance(await failure_of(ticket), JobCancelled)
            assert await seeds_of(first) == [1]
            assert stage.queue._turns.running == []

    async def test_one_that_waits_between_two_turns_ends_at_once_and_lets_go(self) -> None:
        async with a_stage(FakeEngine(rows=2)) as stage:
            await stage.queue.ready()
            parked = stage.submit(1, steps=100, member="a")
            running = stage.submit(2, steps=40, member="b")
            while Progress(1, 40) not in stage.told[2].events:
                await stage.at_gate()
                stage.engine.allow()
            assert not parked.active
            assert stage.queue.cancel(1)
            assert isinstance(await failure_of(parked), JobCancelled)
            assert not running.images.done()
            stage.engine.let_go()
            assert await seeds_of(running) == [2]
            following = stage.submit(3)
            assert await seeds_of(following) == [3]
            gc.collect()
            assert stage.engine.images[0]() is None
            assert stage.engine.begun == [1, 2, 3]


class TestAlone:
    async def test_it_goes_ahead_of_all_who_wait_and_nobody_is_beside_it(self) -> None:
        async with several(FakeEngine(rows=8)) as stage:
            first = stage.submit(1, steps=2)
            await stage.at_gate()
            stage.queue.submit(9, a_request(seed=9, steps=3), Told(), alone=True)
            others = [stage.submit(number, steps=2) for number in (2, 3)]
            stage.engine.let_go()
            for ticket in (first, *others):
                await seeds_of(ticket)
            assert stage.engine.calls == [[1]] * 2 + [[9]] * 3 + [[2, 3]] * 2

    async def test_when_it_is_cancelled_those_that_it_held_back_join_at_once(self) -> None:
        async with several(FakeEngine(rows=8)) as stage:
            first = stage.submit(1, steps=9)
            await stage.at_gate()
            stage.queue.submit(9, a_request(seed=9, steps=3), Told(), alone=True)
            other = stage.submit(2, steps=2)
            assert stage.queue.cancel(9)
            stage.engine.let_go()
            await seeds_of(first)
            await seeds_of(other)
            assert stage.engine.calls == [[1], *[[1, 2]] * 2, *[[1]] * 6]


class TestTheEngineThreadAhead:
    async def test_a_job_that_is_done_before_its_turn_was_ended_leaves_no_trace(self) -> None:
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

    async def test_a_preview_that_breaks_costs_nobody_a_picture(
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
    async def test_of_several_only_the_guilty_one_fails(self, where: str) -> None:
        failures: dict[tuple[str, int], Exception] = {(where, 2): RuntimeError("broken")}
        logging.disable(logging.ERROR)
        try:
            async with several(FakeEngine(failures, rows=8)) as stage:
                tickets = {number: stage.submit(number, steps=3) for number in (1, 2, 3)}
                stage.engine.let_go()
                assert isinstance(await failure_of(tickets[2]), EngineFailed)
                assert [await seeds_of(tickets[number]) for number in (1, 3)] == [[1], [3]]
        finally:
            logging.disable(logging.NOTSET)


@dataclass
class Frail(FakeEngine):
    """An engine that is lost where it is told to be; `engines` are all that were made."""

    lost: Callable[[str, list[int]], bool] = lambda where, seeds: False
    engines: list[Frail] = field(default_factory=list)
    is_closed: bool = False

    def _check(self, where: str, seeds: list[int]) -> None:
        assert not self.is_closed, "it was called after it was lost"
        if self.lost(where, seeds):
            raise EngineLost("The engine is lost: it did not answer for 5 s.")

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[FakeImage] | GenerationError]:
        self._check("begin", [request.seed for request in requests])
        return super().begin(requests)

    def step(self, images: Sequence[FakeImage]) -> None:
        super().step(images)
        self._check("step", [image.request.seed for image in images])

    def finish(self, images):  # type: ignore[no-untyped-def]  # as in the class above
        self._check("finish", [image.request.seed for image in images])
        return super().finish(images)

    def close(self) -> None:
        self.is_closed = True


@asynccontextmanager
async def frail(lost: Callable[[str, list[int]], bool]) -> AsyncIterator[tuple[Stage, list[Frail]]]:
    engines: list[Frail] = []

    def make() -> Frail:
        engines.append(Frail(rows=8, open=True, lost=lost))
        return engines[-1]

    logging.disable(logging.ERROR)
    try:
        async with GenerationQueue(make, limit=100) as queue:
            await queue.ready()
            yield Stage(queue, engines[0]), engines
    finally:
        logging.disable(logging.NOTSET)
        for engine in engines:
            assert engine.is_closed


class TestLosingTheEngine:
    async def test_a_new_one_makes_all_jobs_again_from_their_first_step(self) -> None:
        breaks = iter([False, False, True])
        async with frail(lambda where, _: where == "step" and next(breaks, False)) as (stage, made):
            tickets = [stage.submit(number, steps=4, count=2) for number in (10, 20, 30)]
            assert [await seeds_of(ticket) for ticket in tickets] == [[10, 11], [20, 21], [30, 31]]
            assert len(made) == 2
            assert Counter(made[1].begun).keys() == {10, 20, 30}
            assert made[0].is_closed

    @pytest.mark.parametrize("where", ["begin", "step", "finish"])
    async def test_a_job_that_breaks_it_twice_is_set_aside_and_the_others_are_made(
        self, where: str
    ) -> None:
        async with frail(lambda at, seeds: at == where and 2 in seeds) as (stage, made):
            tickets = {number: stage.submit(number, steps=40) for number in (1, 2, 3, 4, 5)}
            assert isinstance(await failure_of(tickets[2]), SetAside)
            for number in (1, 3, 4, 5):
                assert await seeds_of(tickets[number]) == [number]
            assert len(made) == 3

    async def test_one_that_breaks_only_late_is_found_too(self) -> None:
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

    async def test_if_it_cannot_begin_anything_it_is_given_up(self) -> None:
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

    async def test_a_cancelled_job_is_not_made_again(self) -> None:
        breaks = iter([True])
        async with frail(lambda where, _: where == "step" and next(breaks, False)) as (stage, made):
            made[0].open = False
            tickets = [stage.submit(number, steps=4) for number in (1, 2)]
            await stage.at_gate()
            assert stage.queue.cancel(1)
            made[0].let_go()
            assert isinstance(await failure_of(tickets[0]), JobCancelled)
            assert await seeds_of(tickets[1]) == [2]
            assert 1 not in made[1].begun


@dataclass
class Hanging(FakeEngine):
    """Hangs where it is told to, until it is closed."""

    where: str = "step"
    hangs: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def _hang(self) -> None:
        self.hangs.set()
        assert self.closed.wait(PATIENCE)
        raise EngineLost("The engine is lost: its process ended with exit code -9.")

    def measured(self) -> Measured:
        if self.where == "measured":
            self._hang()
        return super().measured()

    def step(self, images: Sequence[FakeImage]) -> None:
        self._hang()

    def close(self) -> None:
        self.closed.set()


class TestClosingAHangingEngine:
    @pytest.mark.parametrize("where", ["measured", "step"])
    async def test_the_call_is_broken_off_and_jobs_stay_for_later(self, where: str) -> None:
        engine = Hanging(rows=8, where=where)
        start = time.monotonic()
        async with GenerationQueue(lambda: engine, limit=9) as queue:
            died = asyncio.create_task(queue.died())
            tickets = [queue.submit(number, a_request(seed=number), Told()) for number in (1, 2)]
            assert await asyncio.to_thread(engine.hangs.wait, PATIENCE)
        assert time.monotonic() - start < PATIENCE / 3
        for ticket in tickets:
            assert isinstance(await failure_of(ticket), QueueClosed)
        assert not died.done()
        died.cancel()


Act = tuple[str, int]
acts = st.lists(
    st.tuples(st.just("submit"), st.integers(1, 45))
    | st.tuples(st.just("submit"), st.integers(1, 3))
    | st.tuples(st.just("submit broken"), st.integers(1, 5))
    | st.tuples(st.just("cancel"), st.integers(0, 15))
    | st.tuples(st.just("lose the engine"), st.just(0))
    | st.tuples(st.just("wait"), st.integers(1, 5)),
    max_size=30,
)


@dataclass
class Trouble:
    """Jobs that break, and engines that are lost: at most two in a row without a step.

    After three the engine is given up for good, which another test looks at.
    """

    broken: set[int] = field(default_factory=set)
    to_lose: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    in_a_row: int = 0
    losses: Counter[int] = field(default_factory=Counter)

    def __call__(self, where: str, seeds: list[int]) -> bool:
        if where != "step":
            return False
        if any(seed // 10 in self.broken for seed in seeds):
            raise RuntimeError("broken")
        is_lost = self.in_a_row < 2 and self.to_lose.acquire(blocking=False)
        self.in_a_row = self.in_a_row + 1 if is_lost else 0
        if is_lost:
            self.losses.update({seed // 10 for seed in seeds})
        return is_lost


async def play(plan: list[Act]) -> None:
    """Do what the plan says, wait for all jobs, and check how each has ended."""
    trouble = Trouble()
    async with frail(trouble) as (stage, _):
        tickets: list[Ticket] = []
        cancelled: set[int] = set()
        ends: Counter[int] = Counter()
        for act, value in plan:
            if act.startswith("submit"):
                number = len(tickets)
                if act == "submit broken":
                    trouble.broken.add(number)
                count, width = 1 + value % 3, 64 + 64 * (value % 2)
                request = a_request(seed=10 * number, steps=value, count=count, width=width)
                tickets.append(stage.queue.submit(number, request, Told()))
                tickets[-1].images.add_done_callback(lambda _, n=number: ends.update([n]))
            elif act == "cancel" and stage.queue.cancel(value):
                cancelled.add(value)
            elif act == "lose the engine":
                trouble.to_lose.release()
            elif act == "wait":
                await asyncio.sleep(0.001 * value)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(ticket.images for ticket in tickets), return_exceptions=True)
        async with asyncio.timeout(PATIENCE):
            while stage.queue._turns.running:  # noqa: ASYNC110 -- the queue tells nobody
                await asyncio.sleep(0.001)
        assert stage.queue.waiting == 0
        for number, ticket in enumerate(tickets):
            assert_ended(
                ticket,
                cancelled=number in cancelled,
                broken=number in trouble.broken,
                losses=trouble.losses[number],
            )
        assert ends == Counter(range(len(tickets)))


def assert_ended(ticket: Ticket, *, cancelled: bool, broken: bool, losses: int) -> None:
    error = ticket.images.exception()
    if cancelled:
        assert isinstance(error, JobCancelled)
    elif broken:
        assert isinstance(error, EngineFailed)
    elif error is not None:
        # It was the only one in a call when the engine was lost, twice: it looks guilty.
        assert isinstance(error, SetAside)
        assert losses >= 2
    else:
        seeds = [image.recipe.seed for image in ticket.images.result()]
        assert seeds == [ticket.request.seed + index for index in range(ticket.request.count)]


@settings(max_examples=40)
@given(acts)
def test_whatever_happens_each_job_ends_once_with_its_own_pictures_or_a_reason(
    plan: list[Act],
) -> None:
    asyncio.run(play(plan))
