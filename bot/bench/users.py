"""Users of the queue: their pictures, their waiting times, and the lag of the event loop."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from generation.queue.admission import QueueLimits
from generation.queue.fairness import Share
from generation.queue.queue import GenerationQueue
from generation.values.events import Event
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest
from generation.workers.process import EngineProcess
from generation.workers.protocol import EngineLike

from ..config import Settings
from ..engines import start_engine

_TICK: Final = 0.005
_LIMIT: Final = 1_000


@dataclass(slots=True)
class Rush:
    """The results of several users who asked at the same moment.

    `ends` are the seconds until each user got the picture. `errors` are the relative errors of
    the first estimate that each user was given.
    """

    images: list[GeneratedImage]
    ends: list[float]
    errors: list[float]

    @property
    def seconds(self) -> float:
        """Return the seconds until all users had their pictures."""
        return max(self.ends)

    @property
    def mean_wait(self) -> float:
        """Return the mean waiting time of a user in seconds."""
        return statistics.fmean(self.ends)


@dataclass(slots=True)
class LoopLag:
    """How late the event loop ran its timers, in seconds."""

    lags: list[float] = field(default_factory=list)

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            self.lags.append(time.perf_counter() - due)

    def percentile(self, share: int) -> float:
        """Return the lag in ms that `share` % of the timers do not exceed."""
        return 1e3 * statistics.quantiles(self.lags, n=100)[share - 1]


@asynccontextmanager
async def open_queue(settings: Settings, profile: Any) -> AsyncIterator[GenerationQueue[Any]]:
    """Start the bot's own queue on an engine in a process of its own, and wait for it."""

    def make_engine() -> EngineProcess:
        return start_engine(settings, {profile.name: profile})

    async with queue_of(make_engine, previews=settings.previews) as queue:
        await queue.ready()
        yield queue


def queue_of(make_engine: Callable[[], EngineLike[Any]], *, previews: bool) -> GenerationQueue[Any]:
    """Return a queue with room for all users of the benchmark."""
    return GenerationQueue(make_engine, limits_for=lambda _: QueueLimits(_LIMIT), previews=previews)


async def rush(queue: GenerationQueue[Any], requests: Sequence[GenerationRequest]) -> Rush:
    """Send each of `requests` as one user, all at once, and wait for all pictures."""
    start = time.perf_counter()
    made = await asyncio.gather(
        *(_ask(queue, number, request, start) for number, request in enumerate(requests))
    )
    return Rush(
        images=[image for image, _, _ in made],
        ends=[end for _, end, _ in made],
        errors=[abs(told - end) / end for _, end, told in made if told is not None],
    )


async def _ask(
    queue: GenerationQueue[Any], number: int, request: GenerationRequest, start: float
) -> tuple[GeneratedImage, float, float | None]:
    told: list[float] = []

    def listen(event: Event) -> None:
        if event.seconds is not None:
            told.append(time.perf_counter() - start + event.seconds)

    ticket = queue.submit(number, request, listen, Share(group=0, member=number))
    images = await ticket.images
    return images[0], time.perf_counter() - start, told[0] if told else None
