"""A queue that is closed while jobs wait or run, or while its engine hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from generation.errors import (
    EngineLost,
)
from generation.queue import queue as queue_module
from generation.queue.queue import GenerationQueue
from generation.queue.tickets import JobCancelled, QueueClosed, Ticket
from generation.timing import Measured
from generation.values.events import Loading, Progress

from ..examples import a_request
from ..queues import (
    PATIENCE,
    EventLog,
    FakeEngine,
    FakeImage,
    Stage,
    a_stage,
    at_most,
    failure_of,
    seeds_of,
)


class TestClosing:
    async def test_closing_waits_for_the_step_and_fails_unfinished_jobs(self) -> None:
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

    async def test_a_closed_queue_takes_no_jobs(self) -> None:
        before = set(threading.enumerate())
        async with GenerationQueue(FakeEngine, limits_for=at_most(1)) as queue:
            await queue.ready()
            [thread] = set(threading.enumerate()) - before
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()
        with pytest.raises(QueueClosed):
            queue.submit(1, a_request(), EventLog())

    async def test_closing_leaves_a_hanging_engine_behind(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(queue_module, "_STOP_SECONDS", 0.01)
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        engine = FakeEngine()
        async with GenerationQueue(lambda: engine, limits_for=at_most(2)) as queue:
            stage = Stage(queue, engine)
            running, waiting = stage.submit(1), stage.submit(2)
            await stage.told[1].until(Progress(0, 2))
        for ticket in (running, waiting):
            assert isinstance(await failure_of(ticket), QueueClosed)
        assert "leaving it behind" in caplog.text
        # It comes back to life later, when nobody waits for it any more.
        [thread] = engine.threads
        assert thread.daemon
        engine.open_gates()
        await asyncio.to_thread(thread.join, PATIENCE)
        await asyncio.sleep(0)
        assert complaints == []
        assert stage.told[1].events == [Loading(), Progress(0, 2)]

    async def test_closing_ends_all_jobs_even_if_it_is_cancelled(self) -> None:
        engine = FakeEngine()
        tickets: list[Ticket] = []

        async def bot() -> None:
            async with GenerationQueue(lambda: engine, limits_for=at_most(2)) as queue:
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
        engine.open_gates()
        [thread] = engine.threads
        await asyncio.to_thread(thread.join, PATIENCE)


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
    async def test_closing_ends_a_hanging_call_and_leaves_jobs_unfinished(
        self, where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = Hanging(rows=8, where=where)
        start = time.monotonic()
        async with GenerationQueue(lambda: engine, limits_for=at_most(9)) as queue:
            died = asyncio.create_task(queue.died())
            tickets = [
                queue.submit(number, a_request(seed=number), EventLog()) for number in (1, 2)
            ]
            assert await asyncio.to_thread(engine.hangs.wait, PATIENCE)
        assert time.monotonic() - start < PATIENCE / 3
        for ticket in tickets:
            assert isinstance(await failure_of(ticket), QueueClosed)
        assert not died.done()
        died.cancel()
        # The engine was closed, which is no failure.
        assert [record.getMessage() for record in caplog.records] == []
