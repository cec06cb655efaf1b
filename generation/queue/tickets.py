"""A job in the queue, shared by the event loop and the engine thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import GenerationError
from ..schedulers.registry import REGISTRY
from ..values.events import Event, Interruption, Progress
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest, start_step
from .estimates import RemainingWork
from .fairness import Share, cost

Listener = Callable[[Event], None]


class JobCancelled(GenerationError):
    """The job was cancelled before it was finished."""

    def __init__(self) -> None:
        super().__init__("This picture was cancelled.")


class QueueClosed(GenerationError):
    """The queue shut down before the job was finished; the job can be submitted again later."""

    def __init__(self) -> None:
        super().__init__("The bot is shutting down; the picture will be made when it is back.")


@dataclass(eq=False, slots=True, weakref_slot=True, kw_only=True)
class Ticket:
    """One job in the queue.

    `model` is the model that the job needs; None stands for the only one.

    `started` is done when the engine starts the job. `images` holds the pictures, or the error:
    JobCancelled, QueueClosed, another GenerationError, or an error of `read_request`.

    The pixels of a source image can take more memory than all the rest of a job. So with
    `read_request`, `request` has no pixels: the engine thread calls `read_request`, which returns
    the same request with its pixels, when the thread starts the job.

    Only the event loop writes the fields. The engine thread reads `cancelled` and `active`. An
    active job takes steps; a job that is not active waits for its turn, perhaps between two steps.

    `on_engine` means that the engine thread holds the job. `last_event` is the last event that the
    listener was given, `last_estimate` the last finish time, and `nearest` the nearest place in the
    queue. `after` says why the job waits again, if it does.

    `steps` and `taken` count steps of the engine, each a call of the network with `load`. A step of
    the person takes `calls` of them with some schedulers.
    """

    job_id: int
    request: GenerationRequest
    listener: Listener
    share: Share
    started: asyncio.Future[None]
    images: asyncio.Future[list[GeneratedImage]]
    model: str | None = None
    read_request: Callable[[], GenerationRequest] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    active: bool = False
    on_engine: bool = False
    alone: bool = False
    after: Interruption | None = None
    last_event: Event | None = None
    last_estimate: float | None = None
    nearest: int | None = None
    calls: int = field(init=False)
    steps: int = field(init=False)
    load: float = field(init=False)
    taken: int = 0
    turn_ends: int = 0

    def __post_init__(self) -> None:
        request = self.request
        self.calls = REGISTRY[request.scheduler].calls
        self.steps = self.calls * (request.steps - start_step(request.steps, request.strength))
        self.load = cost(request) / self.steps
        if self.read_request is not None:
            self.request = request.without_pixels()

    def request_with_pixels(self) -> GenerationRequest:
        """Return the request with the pixels of its pictures.

        Raises:
            Exception: any error of `read_request`.
        """
        if self.read_request is None or not self.request.pictures:
            return self.request
        return self.read_request()

    @property
    def remaining(self) -> RemainingWork:
        """Return the work that is left."""
        request = self.request
        pixels = request.width * request.height / 1e6
        turn = self.turn_ends - self.taken if self.active else None
        return RemainingWork(self.steps - self.taken, self.load, request.count, pixels, turn)

    def advance(self, steps: int) -> None:
        """Note that so many of the person's steps are done."""
        self.taken = steps * self.calls

    @property
    def progress(self) -> Progress:
        """Return how many of the person's steps are done."""
        return Progress(self.taken // self.calls, self.steps // self.calls)

    def tell(self, event: Event) -> None:
        """Give the listener an event."""
        self.last_event = event
        self.listener(event)

    async def started_or_ended(self) -> None:
        """Wait until the engine starts the job, or the job ends before."""
        over: list[asyncio.Future[Any]] = [self.started, self.images]
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)

    def fail(self, error: Exception) -> None:
        """End the job without pictures, unless it has ended."""
        if not self.images.done():
            self.images.set_exception(error)


def ignore_unretrieved(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging a failure that no code waits for any more."""
    if not future.cancelled():
        future.exception()
