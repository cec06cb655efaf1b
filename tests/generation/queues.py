"""A queue on an engine that takes a step only when the test lets it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from generation.errors import EngineLost, GenerationError
from generation.queue.admission import LimitsFor, QueueLimits
from generation.queue.fairness import Share
from generation.queue.queue import GenerationQueue
from generation.queue.tickets import Ticket
from generation.timing import Measured
from generation.values.events import Event, Progress
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

from .examples import a_recipe, a_request, gradient

# Long enough for the slowest machine: it only ends a test that is broken.
PATIENCE = 60.0


@dataclass(eq=False)
class FakeImage:
    request: GenerationRequest
    index: int
    taken: int = 0

    @property
    def done(self) -> bool:
        return self.taken == self.request.steps

    @property
    def progress(self) -> Progress:
        return Progress(self.taken, self.request.steps)

    failure: GenerationError | None = None


@dataclass
class FakeEngine:
    """An engine that takes a step, or decodes, only when the test lets it.

    `begun` are the seeds of the requests in the order of their start.
    """

    failures: dict[tuple[str, int], Exception] = field(default_factory=dict)
    begun: list[int] = field(default_factory=list)
    threads: set[threading.Thread] = field(default_factory=set)
    overlaps: int = 0
    images: list[weakref.ref[FakeImage]] = field(default_factory=list)
    arrivals: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _finishing: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _busy: threading.Lock = field(default_factory=threading.Lock)
    gate_of_finish: bool = False
    open: bool = False
    rows: int = 2
    calls: list[list[int]] = field(default_factory=list)
    calls_before_release: list[int] = field(default_factory=list)

    def allow(self, steps: int = 1) -> None:
        self._gate.release(steps)

    def allow_finish(self) -> None:
        self._finishing.release()

    def open_gates(self) -> None:
        """Block no more."""
        self.open = True
        self._gate.release()
        self._finishing.release()

    def measured(self) -> Measured:
        return Measured(pixels=64 * 64, step_seconds={self.rows: 0.01}, decode_seconds={1: 0.001})

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[FakeImage] | GenerationError]:
        return [self._begin(request) for request in requests]

    def _begin(self, request: GenerationRequest) -> list[FakeImage] | GenerationError:
        try:
            self._enter("begin", request)
        except GenerationError as error:
            return error
        self.begun.append(request.seed)
        images = [FakeImage(request.alone(index), index) for index in range(request.count)]
        self.images += map(weakref.ref, images)
        return images

    def step(self, images: Sequence[FakeImage]) -> None:
        self.calls.append(sorted({image.request.seed - image.index for image in images}))
        for number, image in enumerate(images):
            # The gate is for the call, not for each image in it.
            self._enter("step", image.request, self._gate if number == 0 else None)
        for image in images:
            image.taken += not image.done

    def finish(self, images: Sequence[FakeImage]) -> list[GeneratedImage | None]:
        return [self._finish(image) for image in images]

    def _finish(self, image: FakeImage) -> GeneratedImage | None:
        self._enter("finish", image.request, self._finishing if self.gate_of_finish else None)
        recipe = a_recipe(seed=image.request.seed)
        return GeneratedImage(index=image.index, pixels=gradient(), recipe=recipe)

    def preview(self, image: FakeImage) -> Pixels | None:
        return gradient()

    def release_unused(self) -> None:
        self.calls_before_release.append(len(self.calls))

    def close(self) -> None:
        pass

    def _enter(
        self, what: str, request: GenerationRequest, gate: threading.Semaphore | None = None
    ) -> None:
        self.threads.add(threading.current_thread())
        self.overlaps += not self._busy.acquire(blocking=False)
        try:
            if gate is not None and not self.open:
                self.arrivals.release()
                assert gate.acquire(timeout=PATIENCE), "the test never let the engine go on"
            if error := self.failures.get((what, request.seed)):
                raise error
        finally:
            self._busy.release()


@dataclass
class EventLog:
    """A listener that remembers what it was told, and in which threads."""

    events: list[Event] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())
        self._changed.set()

    async def until(self, event: Event) -> None:
        async with asyncio.timeout(PATIENCE):
            while event not in self.events:
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Stage:
    """A queue with its fake engine; `submit` numbers the jobs by their seeds."""

    queue: GenerationQueue[FakeImage]
    engine: FakeEngine
    told: dict[int, EventLog] = field(default_factory=dict)

    async def at_gate(self, times: int = 1) -> None:
        """Wait until the engine has come to its gate so many times more."""
        for _ in range(times):
            assert await asyncio.to_thread(self.engine.arrivals.acquire, timeout=PATIENCE)

    def submit(
        self, number: int, *, steps: int = 2, member: str | None = None, **changes: Any
    ) -> Ticket:
        self.told[number] = EventLog()
        request = a_request(seed=number, steps=steps, **changes)
        return self.queue.submit(number, request, self.told[number], Share("server", member))


def at_most(total: int) -> LimitsFor:
    """Return limits that let `total` jobs wait, no matter who asks."""
    return lambda _: QueueLimits(total)


@asynccontextmanager
async def a_stage(engine: FakeEngine | None = None, *, limit: int = 10) -> AsyncIterator[Stage]:
    """Open a queue, and close it while its engine is at its gate, if it still is."""
    engine = engine or FakeEngine()
    queue = GenerationQueue(lambda: engine, limits_for=at_most(limit))
    await queue.__aenter__()
    try:
        # Or the first jobs would be told that the model is being loaded, or not.
        with contextlib.suppress(GenerationError):
            await queue.ready()
        yield Stage(queue, engine)
    finally:
        closing = asyncio.create_task(queue.__aexit__())
        await asyncio.sleep(0)
        engine.open_gates()
        await closing
        for thread in engine.threads:
            await asyncio.to_thread(thread.join, PATIENCE)
            assert not thread.is_alive()


async def seeds_of(ticket: Ticket) -> list[int]:
    async with asyncio.timeout(PATIENCE):
        return [image.recipe.seed for image in await ticket.images]


async def failure_of(ticket: Ticket) -> GenerationError:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(GenerationError) as caught:
            await ticket.images
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return caught.value


@asynccontextmanager
async def several(engine: FakeEngine | None = None) -> AsyncIterator[Stage]:
    """Open a queue on an engine with a capacity of four guided images."""
    async with a_stage(engine or FakeEngine(rows=8), limit=1_000) as stage:
        await stage.queue.ready()
        yield stage


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
        async with GenerationQueue(make, limits_for=at_most(100)) as queue:
            await queue.ready()
            yield Stage(queue, engines[0]), engines
    finally:
        logging.disable(logging.NOTSET)
        for engine in engines:
            assert engine.is_closed
