from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation import queue as queue_module
from generation import worker
from generation.engine import Engine
from generation.errors import (
    EngineFailed,
    GenerationError,
    InvalidRequest,
    ModelError,
    QueueFull,
)
from generation.fairness import FairOrder
from generation.queue import GenerationQueue, JobCancelled, QueueClosed, Ticket
from generation.request import Event, GenerationRequest, Loading, Progress, Waiting

from .examples import a_request
from .queues import PATIENCE, FakeEngine, FakeImage, Stage, Told, a_stage, failure_of, seeds_of


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with a_stage() as made:
        yield made


class TestOrder:
    async def test_jobs_are_done_in_the_order_in_which_they_came(self, stage: Stage) -> None:
        tickets = [stage.submit(number, count=2) for number in (30, 10, 20)]
        stage.engine.let_go()
        assert [await seeds_of(ticket) for ticket in tickets] == [[30, 31], [10, 11], [20, 21]]
        assert stage.engine.begun == [30, 10, 20]
        assert stage.engine.overlaps == 0
        assert len(stage.engine.threads) == 1

    async def test_positions_are_told_when_they_change(self, stage: Stage) -> None:
        first, *_ = [stage.submit(number) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        assert not any(isinstance(event, Waiting) for event in stage.told[1].events)
        assert stage.told[2].events == [Waiting(1)]
        assert stage.told[3].events == [Waiting(2)]
        assert stage.queue.waiting == 2
        stage.engine.allow(2)
        assert await seeds_of(first) == [1]
        await stage.told[2].until(Progress(0, 2))
        assert stage.told[2].events == [Waiting(1), Progress(0, 2)]
        assert stage.told[3].events == [Waiting(2), Waiting(1)]
        assert stage.queue.waiting == 1

    async def test_progress_is_told_step_by_step(self, stage: Stage) -> None:
        ticket = stage.submit(1, steps=3, count=4)
        for step in range(3):
            await stage.told[1].until(Progress(step, 3))
            assert stage.told[1].events[-1] == Progress(step, 3)
            stage.engine.allow()
        assert await seeds_of(ticket) == [1, 2, 3, 4]
        assert stage.told[1].events == [Progress(step, 3) for step in range(4)]

    async def test_the_engine_rests_when_there_is_nothing_to_do_and_not_between_steps(
        self, stage: Stage
    ) -> None:
        tickets = [stage.submit(number, steps=3) for number in (1, 2)]
        stage.engine.let_go()
        for ticket in tickets:
            await seeds_of(ticket)
        async with asyncio.timeout(PATIENCE):
            while 6 not in stage.engine.calls_before_rests:  # noqa: ASYNC110 -- it tells nobody
                await asyncio.sleep(0.001)
        # Before each job it may have rested as well, until it was handed over.
        assert set(stage.engine.calls_before_rests) <= {0, 3, 6}

    async def test_a_job_has_started_when_the_engine_takes_it_up(self, stage: Stage) -> None:
        first, second = stage.submit(1), stage.submit(2)
        async with asyncio.timeout(PATIENCE):
            await first.taken_up_or_over()
        assert first.started.done()
        assert not first.images.done()
        assert not second.started.done()
        stage.engine.allow(2)
        async with asyncio.timeout(PATIENCE):
            await second.taken_up_or_over()
        assert first.images.done()
        assert second.started.done()

    async def test_a_job_that_ends_without_a_start_is_over_too(self, stage: Stage) -> None:
        stage.submit(1)
        waiting = stage.submit(2)
        assert stage.queue.cancel(2)
        async with asyncio.timeout(PATIENCE):
            await waiting.taken_up_or_over()
        assert not waiting.started.done()

    async def test_listeners_are_called_on_the_thread_of_the_event_loop(self, stage: Stage) -> None:
        tickets = [stage.submit(number) for number in (1, 2)]
        stage.engine.let_go()
        for ticket in tickets:
            await seeds_of(ticket)
        assert {*stage.told[1].threads, *stage.told[2].threads} == {threading.get_ident()}
        assert threading.current_thread() not in stage.engine.threads

    async def test_the_event_loop_turns_while_the_engine_is_at_a_step(self, stage: Stage) -> None:
        ticket = stage.submit(1, steps=1)
        await stage.told[1].until(Progress(0, 1))
        await stage.at_gate()
        others = [asyncio.create_task(asyncio.sleep(0, number)) for number in range(1_000)]
        assert await asyncio.gather(*others) == list(range(1_000))
        assert not ticket.images.done()
        stage.engine.allow()
        assert await seeds_of(ticket) == [1]


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many jobs were waiting at each time that the fair order was worked out."""
    lengths: list[int] = []
    in_order = FairOrder.__iter__

    def counted(order: FairOrder[Ticket]) -> Iterator[Ticket]:
        lengths.append(len(order))
        return in_order(order)

    monkeypatch.setattr(FairOrder, "__iter__", counted)
    return lengths


def last_places(stage: Stage, numbers: Iterable[int]) -> list[Event]:
    return [stage.told[number].events[-1] for number in numbers]


class TestALongQueue:
    async def test_the_order_is_worked_out_once_for_all_that_come_at_a_time(
        self, stage: Stage, orders: list[int]
    ) -> None:
        await stage.queue.ready()
        await asyncio.sleep(0)
        orders.clear()
        for number in range(500):
            stage.submit(number, member=str(number))
        assert orders == []
        await asyncio.sleep(0)
        assert orders == [499]
        assert last_places(stage, range(1, 500)) == [Waiting(place) for place in range(1, 500)]

    async def test_a_long_one_is_worked_out_only_now_and_then(
        self, stage: Stage, orders: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue_module, "_REFRESH_SECONDS", 3_600.0)
        for number in range(500):
            stage.submit(number, member=str(number))
            await asyncio.sleep(0)
        # Each time while it was short, and not any more once it was long.
        assert len(orders) <= 103
        assert max(orders) <= 101

    async def test_places_in_a_long_one_are_told_before_long(
        self, stage: Stage, orders: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue_module, "_REFRESH_SECONDS", 0.01)
        await stage.queue.ready()
        await asyncio.sleep(0)
        orders.clear()
        for number in range(200):
            stage.submit(number)
        await stage.told[199].until(Waiting(199))
        assert stage.queue.cancel(1)
        await stage.told[199].until(Waiting(198))
        assert stage.told[1].events == [Waiting(1)]
        assert len(orders) == 2

    async def test_nobody_is_told_a_place_once_it_closes(
        self, orders: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue_module, "_REFRESH_SECONDS", 0.2)
        async with a_stage() as stage:
            await stage.queue.ready()
            tickets = [stage.submit(number) for number in range(300)]
            await stage.told[299].until(Waiting(299))
            orders.clear()
            assert stage.queue.cancel(1)
        await asyncio.sleep(0.3)
        assert orders == []
        assert stage.told[299].events == [Waiting(299)]
        assert isinstance(await failure_of(tickets[1]), JobCancelled)
        for ticket in tickets[2:]:
            assert isinstance(await failure_of(ticket), QueueClosed)


class TestRoom:
    async def test_a_full_queue_says_so_with_its_size(self) -> None:
        async with a_stage(limit=2) as stage:
            for number in (1, 2, 3):
                with stage.queue.reserve():
                    stage.submit(number)
            with pytest.raises(QueueFull) as caught, stage.queue.reserve():
                pytest.fail("there is no room")
            assert caught.value.limit == 2
            assert "2 pictures are waiting" in str(caught.value)

    async def test_a_place_is_held_while_a_job_is_committed(self) -> None:
        async with a_stage(limit=1) as stage:
            stage.submit(1)
            with stage.queue.reserve():
                assert stage.queue.waiting == 1
                with pytest.raises(QueueFull), stage.queue.reserve():
                    pytest.fail("the place is taken")
                stage.submit(2)
            assert stage.queue.waiting == 1

    async def test_a_place_is_free_again_when_the_commit_fails(self) -> None:
        async with a_stage(limit=1) as stage:
            with pytest.raises(OSError, match="disk"), stage.queue.reserve():
                raise OSError("disk full")
            assert stage.queue.waiting == 0
            with stage.queue.reserve():
                pass

    async def test_room_is_made_by_the_job_that_starts(self) -> None:
        async with a_stage(limit=1) as stage:
            first, second = stage.submit(1), stage.submit(2)
            stage.engine.allow(2)
            await seeds_of(first)
            with stage.queue.reserve():
                third = stage.submit(3)
            stage.engine.let_go()
            assert await seeds_of(second) == [2]
            assert await seeds_of(third) == [3]

    async def test_jobs_from_before_a_restart_fit_however_many_they_are(self) -> None:
        async with a_stage(limit=1) as stage:
            tickets = [stage.submit(number) for number in range(5)]
            stage.engine.let_go()
            assert [await seeds_of(ticket) for ticket in tickets] == [[n] for n in range(5)]


class TestCancelling:
    async def test_a_waiting_job_ends_at_once_and_the_others_move_up(self, stage: Stage) -> None:
        tickets = {number: stage.submit(number) for number in (1, 2, 3, 4)}
        await stage.told[1].until(Progress(0, 2))
        assert stage.queue.cancel(3)
        assert isinstance(await failure_of(tickets[3]), JobCancelled)
        await asyncio.sleep(0)
        assert stage.told[2].events[-1] == Waiting(1)
        assert stage.told[4].events == [Waiting(3), Waiting(2)]
        stage.engine.let_go()
        assert [await seeds_of(tickets[number]) for number in (1, 2, 4)] == [[1], [2], [4]]
        assert stage.engine.begun == [1, 2, 4]
        assert stage.told[3].events == [Waiting(2)]

    async def test_a_running_job_ends_after_its_step_and_the_next_one_starts(
        self, stage: Stage
    ) -> None:
        running, waiting = stage.submit(1, steps=50), stage.submit(2)
        stage.engine.allow(3)
        await stage.at_gate(4)
        await stage.told[1].until(Progress(3, 50))
        assert stage.queue.cancel(1)
        assert not running.images.done()
        stage.engine.allow()
        assert isinstance(await failure_of(running), JobCancelled)
        stage.engine.allow(2)
        assert await seeds_of(waiting) == [2]
        # Nobody wants to read how far it is any more.
        assert stage.told[1].events[-1] == Progress(3, 50)
        assert stage.engine.calls.count([1]) == 4

    async def test_a_person_who_cancelled_gets_no_pictures_even_if_they_are_made(self) -> None:
        async with a_stage(FakeEngine(gate_of_finish=True)) as stage:
            ticket, following = stage.submit(1, steps=1), stage.submit(2, steps=1)
            stage.engine.allow()
            await stage.at_gate(2)
            # The engine decodes the only picture: it will not look up again before the end.
            assert stage.queue.cancel(1)
            stage.engine.allow_finish()
            assert isinstance(await failure_of(ticket), JobCancelled)
            stage.engine.let_go()
            assert await seeds_of(following) == [2]

    async def test_a_job_that_fails_after_it_was_cancelled_is_cancelled(self) -> None:
        engine = FakeEngine(failures={("step", 1): RuntimeError("out of memory")})
        async with a_stage(engine) as stage:
            ticket = stage.submit(1)
            await stage.at_gate()
            assert stage.queue.cancel(1)
            engine.let_go()
            assert isinstance(await failure_of(ticket), JobCancelled)

    async def test_what_is_over_or_unknown_cannot_be_cancelled(self, stage: Stage) -> None:
        ticket, waiting = stage.submit(1), stage.submit(2)
        assert stage.queue.cancel(2)
        assert not stage.queue.cancel(2)
        stage.engine.allow(2)
        await seeds_of(ticket)
        assert not stage.queue.cancel(1)
        assert not stage.queue.cancel(99)
        assert isinstance(await failure_of(waiting), JobCancelled)

    async def test_a_job_is_cancelled_at_once_while_the_engine_still_loads(self) -> None:
        engine, loaded = FakeEngine(), threading.Event()

        def load() -> FakeEngine:
            assert loaded.wait(PATIENCE)
            return engine

        async with GenerationQueue(load, limit=3) as queue:
            stage = Stage(queue, engine)
            first, second = stage.submit(1), stage.submit(2)
            assert queue.cancel(1)
            assert isinstance(await failure_of(first), JobCancelled)
            assert not queue.cancel(1)
            loaded.set()
            engine.let_go()
            assert await seeds_of(second) == [2]
            assert engine.begun == [2]
            assert not first.started.done()
            assert stage.told[1].events == [Loading()]

    async def test_the_same_job_can_be_submitted_again(self, stage: Stage) -> None:
        stage.submit(1)
        await stage.told[1].until(Progress(0, 2))
        stage.queue.cancel(1)
        again = stage.submit(1)
        stage.engine.let_go()
        assert await seeds_of(again) == [1]

    async def test_what_a_cancelled_job_held_is_let_go(self, stage: Stage) -> None:
        ticket = stage.submit(1, count=2)
        await stage.told[1].until(Progress(0, 2))
        stage.queue.cancel(1)
        stage.engine.allow()
        error = await failure_of(ticket)
        # The next job shows that the thread has left the one before.
        following = stage.submit(2)
        await stage.told[2].until(Progress(0, 2))
        gc.collect()
        assert [image() is None for image in stage.engine.images] == [True, True, False]
        assert isinstance(error, JobCancelled)
        assert ticket.images.done()
        assert not following.images.done()


class TestFailing:
    @pytest.mark.parametrize("where", ["begin", "step", "finish"])
    async def test_what_breaks_the_engine_fails_that_job_alone(
        self, where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        failures: dict[tuple[str, int], Exception] = {
            (where, 2): RuntimeError("CUDA out of memory\nTried to allocate")
        }
        async with a_stage(FakeEngine(failures)) as stage:
            stage.engine.let_go()
            one, two, three = (stage.submit(number) for number in (1, 2, 3))
            error = await failure_of(two)
            assert isinstance(error, EngineFailed)
            assert str(error) == (
                "The engine failed on this picture (RuntimeError: CUDA out of memory); try other "
                "settings, or ask the operator to look at the log."
            )
            assert await seeds_of(one) == [1]
            assert await seeds_of(three) == [3]
        [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.getMessage() == "The engine failed on job 2"
        assert record.exc_info

    async def test_an_error_with_a_sentence_keeps_it(self) -> None:
        refused = InvalidRequest("width", "The width is 72; use 64.")
        async with a_stage(FakeEngine({("begin", 1): refused})) as stage:
            assert await failure_of(stage.submit(1)) is refused

    async def test_an_error_without_words_is_still_a_sentence(self) -> None:
        async with a_stage(FakeEngine({("begin", 1): RuntimeError()})) as stage:
            assert "(RuntimeError: no details)" in str(await failure_of(stage.submit(1)))

    async def test_a_failure_that_nobody_waits_for_is_no_noise(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with a_stage(FakeEngine({("begin", 1): InvalidRequest("width", "No.")})) as stage:
            stage.submit(1)
            following = stage.submit(2)
            stage.engine.let_go()
            await seeds_of(following)
        gc.collect()
        await asyncio.sleep(0)
        assert caplog.records == []


class TestLoading:
    async def test_it_is_ready_when_the_engine_is_loaded(self) -> None:
        loaded = threading.Event()

        def load() -> FakeEngine:
            assert loaded.wait(PATIENCE)
            return FakeEngine(open=True)

        async with GenerationQueue(load, limit=1) as queue:
            ready = asyncio.create_task(queue.ready())
            ticket = queue.submit(1, a_request(seed=1), Told())
            await asyncio.sleep(0)
            assert not ready.done()
            assert not ticket.started.done()
            loaded.set()
            async with asyncio.timeout(PATIENCE):
                await ready
            assert await seeds_of(ticket) == [1]

    @pytest.mark.parametrize(
        ("raised", "kind", "sentence"),
        [
            (ModelError("There is no model 'x'."), ModelError, "There is no model 'x'."),
            (
                RuntimeError("no CUDA\ndevice"),
                EngineFailed,
                "The model could not be loaded (RuntimeError: no CUDA); see the log.",
            ),
        ],
    )
    async def test_a_model_that_cannot_be_loaded_is_told_and_jobs_stay_for_later(
        self, raised: Exception, kind: type[GenerationError], sentence: str
    ) -> None:
        def load() -> FakeEngine:
            raise raised

        async with GenerationQueue(load, limit=5) as queue:
            tickets = [queue.submit(number, a_request(), Told()) for number in (1, 2, 3)]
            for _ in range(2):
                async with asyncio.timeout(PATIENCE):
                    with pytest.raises(kind) as caught:
                        await queue.ready()
                assert str(caught.value) == sentence
            assert queue.cancel(1)
            assert isinstance(await failure_of(tickets[0]), JobCancelled)
            assert not any(ticket.images.done() for ticket in tickets[1:])
        for ticket in tickets[1:]:
            assert isinstance(await failure_of(ticket), QueueClosed)

    async def test_who_stops_waiting_for_it_spoils_it_for_nobody(self) -> None:
        loaded = threading.Event()

        def load() -> FakeEngine:
            assert loaded.wait(PATIENCE)
            return FakeEngine(open=True)

        async with GenerationQueue(load, limit=1) as queue:
            impatient = asyncio.create_task(queue.ready())
            await asyncio.sleep(0)
            impatient.cancel()
            await asyncio.wait([impatient])
            loaded.set()
            async with asyncio.timeout(PATIENCE):
                await queue.ready()


class TestClosing:
    async def test_in_the_middle_it_ends_after_the_step_and_says_what_is_unfinished(self) -> None:
        async with a_stage() as stage:
            done = stage.submit(1, steps=1)
            running, waiting = stage.submit(2, steps=50), stage.submit(3)
            stage.engine.allow(3)
            await seeds_of(done)
            await stage.told[2].until(Progress(2, 50))
        # Leaving the stage has let the engine go on, and joined its thread.
        for ticket in (running, waiting):
            assert isinstance(await failure_of(ticket), QueueClosed)
        assert await seeds_of(done) == [1]
        assert stage.engine.begun == [1, 2]
        [thread] = stage.engine.threads
        assert not thread.is_alive()

    async def test_a_cancelled_job_is_not_left_for_the_next_start(self) -> None:
        async with a_stage() as stage:
            running = stage.submit(1)
            await stage.told[1].until(Progress(0, 2))
            stage.queue.cancel(1)
        assert isinstance(await failure_of(running), JobCancelled)

    async def test_an_idle_queue_closes_and_takes_nothing_more(self) -> None:
        before = set(threading.enumerate())
        async with GenerationQueue(FakeEngine, limit=1) as queue:
            await queue.ready()
            [thread] = set(threading.enumerate()) - before
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()
        with pytest.raises(QueueClosed):
            queue.submit(1, a_request(), Told())

    async def test_an_engine_that_hangs_is_left_behind(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(queue_module, "_STOP_SECONDS", 0.01)
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        engine = FakeEngine()
        async with GenerationQueue(lambda: engine, limit=2) as queue:
            stage = Stage(queue, engine)
            running, waiting = stage.submit(1), stage.submit(2)
            await stage.told[1].until(Progress(0, 2))
        for ticket in (running, waiting):
            assert isinstance(await failure_of(ticket), QueueClosed)
        assert "leaving it behind" in caplog.text
        # It comes back to life later, when nobody waits for it any more.
        [thread] = engine.threads
        assert thread.daemon
        engine.let_go()
        await asyncio.to_thread(thread.join, PATIENCE)
        await asyncio.sleep(0)
        assert complaints == []
        assert stage.told[1].events == [Loading(), Progress(0, 2)]

    async def test_who_is_cancelled_while_it_closes_leaves_no_job_without_an_end(self) -> None:
        engine = FakeEngine()
        tickets: list[Ticket] = []

        async def bot() -> None:
            async with GenerationQueue(lambda: engine, limit=2) as queue:
                stage = Stage(queue, engine)
                tickets.append(stage.submit(1))
                await stage.told[1].until(Progress(0, 2))
                tickets.append(stage.submit(2))
                closes.set()

        closes = asyncio.Event()
        running = asyncio.create_task(bot())
        async with asyncio.timeout(PATIENCE):
            await closes.wait()
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        for ticket in tickets:
            assert isinstance(await failure_of(ticket), QueueClosed)
        engine.let_go()
        [thread] = engine.threads
        await asyncio.to_thread(thread.join, PATIENCE)


class TestWithTheRealEngine:
    async def test_pictures_come_out_as_from_the_engine_alone(self, engine: Engine) -> None:
        requests = [a_request(count=2), a_request(scheduler="lms", width=96, seed=9)]
        expected = await asyncio.to_thread(lambda: [engine.generate(asked) for asked in requests])
        async with GenerationQueue(lambda: engine, limit=4) as queue:
            await queue.ready()
            told = [Told(), Told()]
            tickets = [
                queue.submit(number, request, listener)
                for number, (request, listener) in enumerate(zip(requests, told, strict=True))
            ]
            async with asyncio.timeout(PATIENCE):
                assert [await ticket.images for ticket in tickets] == expected
        assert told[0].events == [Progress(step, 3) for step in range(4)]
        # If it is loaded before anybody could be told a place, the second has none.
        events = [event for event in told[1].events if event != Waiting(1)]
        assert events == [Progress(step, 3) for step in range(4)]

    async def test_a_size_that_the_model_cannot_make_fails_with_its_sentence(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: GenerationRequest) -> None:
            raise InvalidRequest("width", "The width is 72; use 64.")

        monkeypatch.setattr(engine, "_check_size", refuse)
        async with GenerationQueue(lambda: engine, limit=1) as queue:
            error = await failure_of(queue.submit(1, a_request(), Told()))
        assert str(error) == "The width is 72; use 64."


Action = tuple[str, int]
actions = st.lists(
    st.tuples(st.just("submit"), st.integers(1, 3))
    | st.tuples(st.just("submit broken"), st.integers(1, 2))
    | st.tuples(st.just("cancel"), st.integers(0, 12))
    | st.tuples(st.just("step"), st.just(1)),
    max_size=25,
)


class Model:
    """What a queue has to do, told apart from how it does it.

    After each action it waits until the engine is at its gate again, or has nothing to do.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tickets: list[Ticket] = []
        self.endings: dict[int, str] = {}
        self.ends: list[int] = []
        self.waiting: deque[int] = deque()
        self.running: int | None = None
        self.begun: list[int] = []

    async def submit(self, steps: int) -> None:
        number = len(self.tickets)
        ticket = self.stage.submit(number, steps=steps)
        ticket.images.add_done_callback(lambda _: self.ends.append(number))
        self.tickets.append(ticket)
        self.waiting.append(number)
        if self.running is None:
            await self._next()

    async def submit_broken(self, step: int) -> None:
        self.stage.engine.failures["step", len(self.tickets)] = RuntimeError("broken")
        await self.submit(step)

    async def cancel(self, number: int) -> None:
        known = number in self.waiting or number == self.running
        assert self.stage.queue.cancel(number) is known
        if number in self.waiting:
            self.waiting.remove(number)
            self.endings[number] = "JobCancelled"
        elif number == self.running:
            self.stage.engine.allow()
            await self._end(number, "JobCancelled")

    async def step(self, _: int) -> None:
        if self.running is None:
            return
        number = self.running
        told = self.stage.told[number]
        before = told.events[-1]
        assert isinstance(before, Progress)
        self.stage.engine.allow()
        if ("step", number) in self.stage.engine.failures:
            await self._end(number, "EngineFailed")
            return
        await told.until(Progress(before.step + 1, before.steps))
        if before.step + 1 == before.steps:
            await self._end(number, "pictures")
        else:
            await self.stage.at_gate()

    async def _end(self, number: int, ending: str) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([self.tickets[number].images])
        self.endings[number] = ending
        await self._next()

    async def _next(self) -> None:
        self.running = self.waiting.popleft() if self.waiting else None
        if self.running is not None:
            self.begun.append(self.running)
            request = self.tickets[self.running].request
            await self.stage.told[self.running].until(Progress(0, request.steps))
            await self.stage.at_gate()

    def check(self) -> None:
        assert self.stage.queue.waiting == len(self.waiting)
        for position, number in enumerate(self.waiting, start=1):
            assert self.stage.told[number].events[-1] == Waiting(position)
        for number, ticket in enumerate(self.tickets):
            assert ticket.images.done() is (number in self.endings)


def ending_of(ticket: Ticket) -> str:
    error = ticket.images.exception()
    return "pictures" if error is None else type(error).__name__


async def act(plan: list[Action]) -> None:
    async with a_stage() as stage:
        model = Model(stage)
        acts: dict[str, Callable[[int], Any]] = {
            "submit": model.submit,
            "submit broken": model.submit_broken,
            "cancel": model.cancel,
            "step": model.step,
        }
        for name, value in plan:
            await acts[name](value)
            # Places are told on the next turn of the event loop.
            await asyncio.sleep(0)
            model.check()
    if ("step", model.running) in stage.engine.failures:
        model.endings[model.running] = "EngineFailed"
    unfinished = dict.fromkeys(range(len(model.tickets)), "QueueClosed")
    found = dict(enumerate(map(ending_of, model.tickets)))
    assert found == unfinished | model.endings
    await asyncio.sleep(0)
    assert sorted(model.ends) == list(range(len(model.tickets)))
    assert stage.engine.begun == model.begun
    assert stage.engine.overlaps == 0
    assert len(stage.engine.threads) <= 1


@settings(max_examples=60)
@given(actions)
def test_whatever_happens_each_job_ends_once_in_turn_and_alone(plan: list[Action]) -> None:
    logging.disable(logging.ERROR)
    try:
        # An engine that fails at all it is given is replaced: see test_losses.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "_FAILURES", len(plan) + 1)
            asyncio.run(act(plan))
    finally:
        logging.disable(logging.NOTSET)


class HeldAtBegin(FakeEngine):
    """Gives no sign from when it is handed a job until it is let go."""

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[FakeImage] | GenerationError]:
        self._enter("begin", requests[0], self._gate)
        return super().begin(requests)


async def test_a_job_that_the_engine_is_handed_and_gives_no_sign_of_is_told_that_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("generation.outlook._SILENCE_SECONDS", 0.2)
    async with a_stage(HeldAtBegin()) as stage:
        ticket = stage.submit(1, steps=2)
        await stage.told[1].until(Progress(0, 2, late=True))
        stage.engine.let_go()
        await stage.told[1].until(Progress(0, 2))
        assert await seeds_of(ticket) == [1]
