from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Sequence

import pytest

from generation.engine.engine import Engine
from generation.errors import (
    EngineFailed,
    GenerationError,
    InvalidRequest,
    ModelError,
    QueueFull,
)
from generation.queue.queue import GenerationQueue
from generation.queue.tickets import JobCancelled, QueueClosed
from generation.values.events import Progress, Waiting
from generation.values.request import GenerationRequest

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


class TestOrder:
    async def test_jobs_run_in_the_order_of_their_arrival(self, stage: Stage) -> None:
        tickets = [stage.submit(number, count=2) for number in (30, 10, 20)]
        stage.engine.open_gates()
        assert [await seeds_of(ticket) for ticket in tickets] == [[30, 31], [10, 11], [20, 21]]
        assert stage.engine.begun == [30, 10, 20]
        assert stage.engine.overlaps == 0
        assert len(stage.engine.threads) == 1

    async def test_a_job_is_told_its_place_when_the_place_changes(self, stage: Stage) -> None:
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

    async def test_a_job_is_told_its_progress_after_each_step(self, stage: Stage) -> None:
        ticket = stage.submit(1, steps=3, count=4)
        for step in range(3):
            await stage.told[1].until(Progress(step, 3))
            assert stage.told[1].events[-1] == Progress(step, 3)
            stage.engine.allow()
        assert await seeds_of(ticket) == [1, 2, 3, 4]
        assert stage.told[1].events == [Progress(step, 3) for step in range(4)]

    async def test_an_idle_engine_releases_what_is_unused_but_not_between_steps(
        self, stage: Stage
    ) -> None:
        tickets = [stage.submit(number, steps=3) for number in (1, 2)]
        stage.engine.open_gates()
        for ticket in tickets:
            await seeds_of(ticket)
        async with asyncio.timeout(PATIENCE):
            while 6 not in stage.engine.calls_before_release:  # noqa: ASYNC110 -- it tells nobody
                await asyncio.sleep(0.001)
        # Before each job it may have rested as well, until it was handed over.
        assert set(stage.engine.calls_before_release) <= {0, 3, 6}

    async def test_a_job_has_started_when_the_engine_begins_its_images(self, stage: Stage) -> None:
        first, second = stage.submit(1), stage.submit(2)
        async with asyncio.timeout(PATIENCE):
            await first.started_or_ended()
        assert first.started.done()
        assert not first.images.done()
        assert not second.started.done()
        stage.engine.allow(2)
        async with asyncio.timeout(PATIENCE):
            await second.started_or_ended()
        assert first.images.done()
        assert second.started.done()

    async def test_waiting_for_a_start_ends_when_the_job_ends(self, stage: Stage) -> None:
        stage.submit(1)
        waiting = stage.submit(2)
        assert stage.queue.cancel(2)
        async with asyncio.timeout(PATIENCE):
            await waiting.started_or_ended()
        assert not waiting.started.done()

    async def test_listeners_are_called_on_the_thread_of_the_event_loop(self, stage: Stage) -> None:
        tickets = [stage.submit(number) for number in (1, 2)]
        stage.engine.open_gates()
        for ticket in tickets:
            await seeds_of(ticket)
        assert {*stage.told[1].threads, *stage.told[2].threads} == {threading.get_ident()}
        assert threading.current_thread() not in stage.engine.threads

    async def test_the_event_loop_is_free_during_a_step(self, stage: Stage) -> None:
        ticket = stage.submit(1, steps=1)
        await stage.told[1].until(Progress(0, 1))
        await stage.at_gate()
        others = [asyncio.create_task(asyncio.sleep(0, number)) for number in range(1_000)]
        assert await asyncio.gather(*others) == list(range(1_000))
        assert not ticket.images.done()
        stage.engine.allow()
        assert await seeds_of(ticket) == [1]


class TestLimit:
    async def test_the_error_of_a_full_queue_names_its_size(self) -> None:
        async with a_stage(limit=2) as stage:
            for number in (1, 2, 3):
                with stage.queue.reserve():
                    stage.submit(number)
            with pytest.raises(QueueFull) as caught, stage.queue.reserve():
                pytest.fail("the queue is full")
            assert caught.value.limit == 2
            assert "2 pictures are waiting" in str(caught.value)

    async def test_a_reserved_place_counts_as_waiting(self) -> None:
        async with a_stage(limit=1) as stage:
            stage.submit(1)
            with stage.queue.reserve():
                assert stage.queue.waiting == 1
                with pytest.raises(QueueFull), stage.queue.reserve():
                    pytest.fail("the place is taken")
                stage.submit(2)
            assert stage.queue.waiting == 1

    async def test_a_reserved_place_is_free_again_after_an_error(self) -> None:
        async with a_stage(limit=1) as stage:
            with pytest.raises(OSError, match="disk"), stage.queue.reserve():
                raise OSError("disk full")
            assert stage.queue.waiting == 0
            with stage.queue.reserve():
                pass

    async def test_a_job_that_starts_frees_its_place(self) -> None:
        async with a_stage(limit=1) as stage:
            first, second = stage.submit(1), stage.submit(2)
            stage.engine.allow(2)
            await seeds_of(first)
            with stage.queue.reserve():
                third = stage.submit(3)
            stage.engine.open_gates()
            assert await seeds_of(second) == [2]
            assert await seeds_of(third) == [3]

    async def test_submitted_jobs_may_exceed_the_limit(self) -> None:
        async with a_stage(limit=1) as stage:
            tickets = [stage.submit(number) for number in range(5)]
            stage.engine.open_gates()
            assert [await seeds_of(ticket) for ticket in tickets] == [[n] for n in range(5)]


class TestFailing:
    @pytest.mark.parametrize("where", ["begin", "step", "finish"])
    async def test_an_error_of_the_engine_fails_only_its_own_job(
        self, where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        failures: dict[tuple[str, int], Exception] = {
            (where, 2): RuntimeError("CUDA out of memory\nTried to allocate")
        }
        async with a_stage(FakeEngine(failures)) as stage:
            stage.engine.open_gates()
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

    async def test_a_generation_error_is_passed_on_as_it_is(self) -> None:
        refused = InvalidRequest("width", "The width is 72; use 64.")
        async with a_stage(FakeEngine({("begin", 1): refused})) as stage:
            assert await failure_of(stage.submit(1)) is refused

    async def test_an_error_without_a_text_becomes_a_sentence(self) -> None:
        async with a_stage(FakeEngine({("begin", 1): RuntimeError()})) as stage:
            assert "(RuntimeError: no details)" in str(await failure_of(stage.submit(1)))

    async def test_a_failure_that_no_code_waits_for_is_not_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with a_stage(FakeEngine({("begin", 1): InvalidRequest("width", "No.")})) as stage:
            stage.submit(1)
            following = stage.submit(2)
            stage.engine.open_gates()
            await seeds_of(following)
        gc.collect()
        await asyncio.sleep(0)
        assert caplog.records == []


class TestLoading:
    async def test_the_queue_is_ready_when_the_engine_is_loaded(self) -> None:
        loaded = threading.Event()

        def load() -> FakeEngine:
            assert loaded.wait(PATIENCE)
            return FakeEngine(open=True)

        async with GenerationQueue(load, limits_for=at_most(1)) as queue:
            ready = asyncio.create_task(queue.ready())
            ticket = queue.submit(1, a_request(seed=1), EventLog())
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
    async def test_a_failed_load_is_reported_and_jobs_stay_unfinished(
        self, raised: Exception, kind: type[GenerationError], sentence: str
    ) -> None:
        def load() -> FakeEngine:
            raise raised

        async with GenerationQueue(load, limits_for=at_most(5)) as queue:
            tickets = [queue.submit(number, a_request(), EventLog()) for number in (1, 2, 3)]
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

    async def test_a_cancelled_wait_does_not_cancel_the_load(self) -> None:
        loaded = threading.Event()

        def load() -> FakeEngine:
            assert loaded.wait(PATIENCE)
            return FakeEngine(open=True)

        async with GenerationQueue(load, limits_for=at_most(1)) as queue:
            impatient = asyncio.create_task(queue.ready())
            await asyncio.sleep(0)
            impatient.cancel()
            await asyncio.wait([impatient])
            loaded.set()
            async with asyncio.timeout(PATIENCE):
                await queue.ready()


class TestWithTheRealEngine:
    async def test_the_queue_changes_no_pixel(self, engine: Engine) -> None:
        requests = [a_request(count=2), a_request(scheduler="lms", width=96, seed=9)]
        expected = await asyncio.to_thread(lambda: [engine.generate(asked) for asked in requests])
        async with GenerationQueue(lambda: engine, limits_for=at_most(4)) as queue:
            await queue.ready()
            told = [EventLog(), EventLog()]
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

    async def test_a_size_that_the_model_cannot_make_is_refused(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise InvalidRequest("width", "The width is 72; use 64.")

        monkeypatch.setattr("generation.engine.engine._check_size", refuse)
        async with GenerationQueue(lambda: engine, limits_for=at_most(1)) as queue:
            error = await failure_of(queue.submit(1, a_request(), EventLog()))
        assert str(error) == "The width is 72; use 64."


class HeldAtBegin(FakeEngine):
    """An engine that begins a job only when the test lets it."""

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[FakeImage] | GenerationError]:
        self._enter("begin", requests[0], self._gate)
        return super().begin(requests)


async def test_a_job_that_the_engine_does_not_start_is_told_that_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("generation.queue.updates._SILENCE_SECONDS", 0.2)
    async with a_stage(HeldAtBegin()) as stage:
        ticket = stage.submit(1, steps=2)
        await stage.told[1].until(Progress(0, 2, late=True))
        stage.engine.open_gates()
        await stage.told[1].until(Progress(0, 2))
        assert await seeds_of(ticket) == [1]
