"""The queue on an engine with several models, of which one is in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from generation.errors import EngineLost, ModelError, SetAside
from generation.queue.queue import GenerationQueue
from generation.queue.tickets import JobCancelled
from generation.values.events import Loading, Progress, Waiting
from generation.workers.protocol import ModelLoad

from ..queues import PATIENCE, FakeEngine, Stage, at_most, failure_of, seeds_of


@dataclass
class Shelf(FakeEngine):
    """An engine that has one model in memory; `losses` and `broken` say which cannot be loaded."""

    in_memory: str = "a"
    loads: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    losses: dict[str, int] = field(default_factory=dict)

    def load(self, model: str) -> ModelLoad:
        if model != self.in_memory:
            self.loads.append(model)
            if self.losses.get(model, 0):
                self.losses[model] -= 1
                raise EngineLost("The engine is lost: its process ended with exit code -9.")
            if model in self.broken:
                return ModelLoad(
                    measured=None,
                    failure=ModelError(f"The model {model} is broken; pull it again."),
                    loaded={self.in_memory},
                )
            self.in_memory = model
        return ModelLoad(measured=self.measured(), failure=None, loaded={model})

    def step(self, images):  # type: ignore[no-untyped-def]  # as in the class above
        assert {image.request.model or "a" for image in images} == {self.in_memory}
        super().step(images)


class Hold:
    """Stops the engine thread until the test lets the engine thread go on."""

    def __init__(self) -> None:
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wait(self) -> None:
        """Wait for `go_on`, in the engine thread."""
        self._loop.call_soon_threadsafe(self.arrived.set)
        asyncio.run_coroutine_threadsafe(self.go_on.wait(), self._loop).result(PATIENCE)


@asynccontextmanager
async def a_shelf(**changes: object) -> AsyncIterator[tuple[Stage, list[Shelf]]]:
    """Open a queue whose engines share what they lose and break."""
    made: list[Shelf] = []

    def make() -> Shelf:
        made.append(Shelf(rows=8, open=True, **changes))  # type: ignore[arg-type]
        return made[-1]

    async with GenerationQueue(make, limits_for=at_most(100), default_model="a") as queue:
        await queue.ready()
        yield Stage(queue, made[0]), made


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def test_a_job_is_told_that_its_model_is_being_loaded() -> None:
    async with a_shelf() as (stage, (engine,)):
        ticket = stage.submit(1, model="b")
        assert await seeds_of(ticket) == [1]
        events = stage.told[1].events
        assert Loading(model="b") in events
        after = events[events.index(Loading(model="b")) + 1 :]
        assert all(isinstance(event, (Progress, Waiting)) for event in after)
        assert after[-1] == Progress(2, 2)
        assert engine.loads == ["b"]


async def test_a_job_that_names_no_model_is_for_the_default_one() -> None:
    async with a_shelf() as (stage, (engine,)):
        assert await seeds_of(stage.submit(1)) == [1]
        assert await seeds_of(stage.submit(2, model="a")) == [2]
        assert engine.loads == []
        assert not any(isinstance(event, Loading) for event in stage.told[1].events)


async def test_jobs_for_several_models_are_all_made() -> None:
    async with a_shelf() as (stage, (engine,)):
        tickets = [
            stage.submit(number, model="abc"[number % 3], member=f"member {number % 5}")
            for number in range(60)
        ]
        for number, ticket in enumerate(tickets):
            assert await seeds_of(ticket) == [number]
        # Each was loaded a few times, and not once for each job.
        assert len(engine.loads) <= 12


async def test_a_model_that_cannot_be_loaded_fails_its_own_jobs() -> None:
    async with a_shelf(broken={"b"}) as (stage, made):
        tickets = [stage.submit(number, model="ab"[number % 2]) for number in range(6)]
        for number, ticket in enumerate(tickets):
            if number % 2:
                failure = await failure_of(ticket)
                assert str(failure) == "The model b is broken; pull it again."
            else:
                assert await seeds_of(ticket) == [number]
        assert len(made) == 1


async def test_an_engine_that_is_lost_while_it_loads_loses_no_job() -> None:
    losses = {"b": 1}
    async with a_shelf(losses=losses) as (stage, made):
        tickets = [stage.submit(number, model="abc"[number % 3], steps=40) for number in range(9)]
        for number, ticket in enumerate(tickets):
            assert await seeds_of(ticket) == [number]
        assert len(made) == 2


async def test_a_model_that_ends_the_engine_twice_is_refused_and_the_others_go_on() -> None:
    async with a_shelf(losses={"b": 100}) as (stage, made):
        doomed = [stage.submit(number, model="b") for number in (1, 2, 3, 4)]
        sound = [stage.submit(number, model="c") for number in (5, 6)]
        failures = [await failure_of(ticket) for ticket in doomed]
        assert len(made) == 3
        assert {type(failure) for failure in failures} <= {SetAside, ModelError}
        assert sum(isinstance(failure, ModelError) for failure in failures) >= 2
        assert "The engine stopped twice while it loaded the model b;" in str(failures[-1])
        for number, ticket in zip((5, 6), sound, strict=True):
            assert await seeds_of(ticket) == [number]


async def test_a_job_is_cancelled_while_its_model_is_loaded() -> None:
    async with a_shelf() as (stage, (engine,)):
        hold = Hold()
        load = engine.load

        def slow(model: str) -> ModelLoad:
            hold.wait()
            return load(model)

        engine.load = slow  # type: ignore[method-assign]
        ticket = stage.submit(1, model="b")
        await hold.arrived.wait()
        assert stage.queue.cancel(1)
        assert (await failure_of(ticket)).args == ("This picture was cancelled.",)
        hold.go_on.set()
        assert await seeds_of(stage.submit(2, model="b")) == [2]


async def test_a_job_that_is_cancelled_before_its_model_is_loaded_changes_no_order() -> None:
    async with a_shelf() as (stage, (engine,)):
        hold = Hold()

        def release_unused() -> None:
            # The engine thread has nothing to do: it holds no job, or job 1 has ended.
            if engine.begun and not hold.go_on.is_set():
                hold.wait()

        engine.release_unused = release_unused  # type: ignore[method-assign]
        assert await seeds_of(stage.submit(1)) == [1]
        await hold.arrived.wait()
        cancelled = stage.submit(2, model="b")
        others = [stage.submit(3, model="c", member="x"), stage.submit(4, model="a", member="y")]
        assert stage.queue.cancel(2)
        assert isinstance(await failure_of(cancelled), JobCancelled)
        hold.go_on.set()
        for seed, ticket in zip((3, 4), others, strict=True):
            assert await seeds_of(ticket) == [seed]
        # The model a is still in memory, so its job goes first.
        assert engine.begun == [1, 4, 3]
        assert engine.loads == ["c"]
