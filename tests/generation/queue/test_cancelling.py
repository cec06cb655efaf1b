"""Jobs that are cancelled while they wait, run, or are decoded."""

from __future__ import annotations

import asyncio
import gc
import threading

from generation.queue.queue import GenerationQueue
from generation.queue.tickets import JobCancelled
from generation.values.events import Loading, Progress, Waiting

from ..queues import (
    PATIENCE,
    FakeEngine,
    Stage,
    a_stage,
    at_most,
    failure_of,
    seeds_of,
    several,
)


class TestCancelling:
    async def test_a_waiting_job_ends_at_once_and_later_jobs_move_up(self, stage: Stage) -> None:
        tickets = {number: stage.submit(number) for number in (1, 2, 3, 4)}
        await stage.told[1].until(Progress(0, 2))
        assert stage.queue.cancel(3)
        assert isinstance(await failure_of(tickets[3]), JobCancelled)
        await asyncio.sleep(0)
        assert stage.told[2].events[-1] == Waiting(1)
        assert stage.told[4].events == [Waiting(3), Waiting(2)]
        stage.engine.open_gates()
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

    async def test_a_cancelled_job_has_no_pictures_even_if_they_are_made(self) -> None:
        async with a_stage(FakeEngine(gate_of_finish=True)) as stage:
            ticket, following = stage.submit(1, steps=1), stage.submit(2, steps=1)
            stage.engine.allow()
            await stage.at_gate(2)
            # The engine decodes the only picture: it will not look up again before the end.
            assert stage.queue.cancel(1)
            stage.engine.allow_finish()
            assert isinstance(await failure_of(ticket), JobCancelled)
            stage.engine.open_gates()
            assert await seeds_of(following) == [2]

    async def test_a_job_that_fails_after_it_was_cancelled_is_cancelled(self) -> None:
        engine = FakeEngine(failures={("step", 1): RuntimeError("out of memory")})
        async with a_stage(engine) as stage:
            ticket = stage.submit(1)
            await stage.at_gate()
            assert stage.queue.cancel(1)
            engine.open_gates()
            assert isinstance(await failure_of(ticket), JobCancelled)

    async def test_an_ended_or_unknown_job_cannot_be_cancelled(self, stage: Stage) -> None:
        ticket, waiting = stage.submit(1), stage.submit(2)
        assert stage.queue.cancel(2)
        assert not stage.queue.cancel(2)
        stage.engine.allow(2)
        await seeds_of(ticket)
        assert not stage.queue.cancel(1)
        assert not stage.queue.cancel(99)
        assert isinstance(await failure_of(waiting), JobCancelled)

    async def test_a_job_is_cancelled_at_once_while_the_engine_loads(self) -> None:
        engine, loaded = FakeEngine(), threading.Event()

        def load() -> FakeEngine:
            assert loaded.wait(PATIENCE)
            return engine

        async with GenerationQueue(load, limits_for=at_most(3)) as queue:
            stage = Stage(queue, engine)
            first, second = stage.submit(1), stage.submit(2)
            assert queue.cancel(1)
            assert isinstance(await failure_of(first), JobCancelled)
            assert not queue.cancel(1)
            loaded.set()
            engine.open_gates()
            assert await seeds_of(second) == [2]
            assert engine.begun == [2]
            assert not first.started.done()
            assert stage.told[1].events == [Loading()]

    async def test_the_same_job_can_be_submitted_again(self, stage: Stage) -> None:
        stage.submit(1)
        await stage.told[1].until(Progress(0, 2))
        stage.queue.cancel(1)
        again = stage.submit(1)
        stage.engine.open_gates()
        assert await seeds_of(again) == [1]

    async def test_a_cancelled_job_keeps_no_images_alive(self, stage: Stage) -> None:
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


class TestCancellingOneOfSeveral:
    async def test_a_running_job_leaves_after_its_step_and_the_others_continue(self) -> None:
        async with several() as stage:
            tickets = {number: stage.submit(number, steps=5) for number in (1, 2, 3)}
            await stage.at_gate()
            stage.engine.allow()
            await stage.at_gate()
            assert stage.queue.cancel(2)
            stage.engine.open_gates()
            assert isinstance(await failure_of(tickets[2]), JobCancelled)
            assert [await seeds_of(tickets[number]) for number in (1, 3)] == [[1], [3]]
            assert sum(2 in call for call in stage.engine.calls) <= 3
            assert sorted(stage.engine.begun) == [1, 2, 3]

    async def test_a_job_that_is_cancelled_while_it_starts_frees_its_capacity(self) -> None:
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
            stage.engine.open_gates()
            assert isinstance(await failure_of(ticket), JobCancelled)
            assert await seeds_of(first) == [1]
            assert stage.queue._turns.running == []

    async def test_a_job_between_two_turns_ends_at_once_and_is_forgotten(self) -> None:
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
            stage.engine.open_gates()
            assert await seeds_of(running) == [2]
            following = stage.submit(3)
            assert await seeds_of(following) == [3]
            gc.collect()
            assert stage.engine.images[0]() is None
            assert stage.engine.begun == [1, 2, 3]
