"""A job's place in the queue, shared by the event loop and the engine thread."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import GenerationError
from ..values.events import Event, Interruption
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest, start_step
from .estimates import Work
from .fairness import Share, cost

Listener = Callable[[Event], None]


class JobCancelled(GenerationError):
    """The job was cancelled before it was finished."""

    def __init__(self) -> None:
        super().__init__("This picture was cancelled.")


class QueueClosed(GenerationError):
    """The queue shut down with the job unfinished; it can be submitted again later."""

    def __init__(self) -> None:
        super().__init__("The bot is shutting down; the picture will be made when it is back.")


@dataclass(eq=False, slots=True, kw_only=True)
class Ticket:
    """One job in the queue.

    `started` is done when the engine takes the job up; `images` holds its pictures, or
    JobCancelled, QueueClosed, another GenerationError, or what `read_source` raised.

    The pixels that a job starts from may take more memory than all else together. So `request`
    is without them where there is a `read_source`, which the engine thread calls when it takes the
    job up.

    The event loop writes all fields but `breaks`, which only the engine thread touches: how many
    engines were lost with the job in hand. That thread also reads `cancelled` and `active`:
    whether the job may take steps now, or waits for its turn between two of them.

    `told` is the last event that the listener was given, `told_end` when the job ends by that,
    `nearest` the nearest place that it was told, and `after` why it waits again, if it does.
    """

    job_id: int
    request: GenerationRequest
    listener: Listener
    share: Share
    started: asyncio.Future[None]
    images: asyncio.Future[list[GeneratedImage]]
    read_source: Callable[[], Pixels] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    active: bool = False
    begun: bool = False
    alone: bool = False
    after: Interruption | None = None
    told: Event | None = None
    told_end: float | None = None
    nearest: int | None = None
    steps: int = field(init=False)
    load: float = field(init=False)
    taken: int = 0
    turn_ends: int = 0
    breaks: int = 0

    def __post_init__(self) -> None:
        request = self.request
        self.steps = request.steps - start_step(request.steps, request.strength)
        self.load = cost(request) / self.steps
        if self.read_source is not None:
            self.request = request.without_pixels()

    def whole_request(self) -> GenerationRequest:
        """Return the request with the pixels that it starts from.

        Raises:
            Exception: whatever `read_source` raises.
        """
        if self.read_source is None or self.request.source is None:
            return self.request
        return dataclasses.replace(self.request, source=self.read_source())

    @property
    def left(self) -> Work:
        """Return what the job still takes."""
        request = self.request
        pixels = request.width * request.height / 1e6
        turn = self.turn_ends - self.taken if self.active else None
        return Work(self.steps - self.taken, self.load, request.count, pixels, turn)

    def tell(self, event: Event) -> None:
        """Give the listener an event."""
        self.told = event
        self.listener(event)

    async def taken_up_or_over(self) -> None:
        """Wait until the engine takes the job up, or it ends without that."""
        over: list[asyncio.Future[Any]] = [self.started, self.images]
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)

    def fail(self, error: Exception) -> None:
        """End the job without pictures, unless it is over."""
        if not self.images.done():
            self.images.set_exception(error)
