"""The asyncio queue in front of the engine thread.

Everything that decides (order, room, cancelling a waiting job) happens on the event loop
and needs no lock; the engine thread is handed one job at a time and posts what happens
back to the loop. Only that thread ever touches the engine.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from .errors import EngineFailed, GenerationError, MemberQueueFull, QueueFull
from .fairness import FairOrder, Share, cost
from .request import Event, GeneratedImage, GenerationRequest, Progress, Waiting

log = logging.getLogger(__name__)

Listener = Callable[[Event], None]
_STOP_SECONDS: Final = 30.0
_NOBODYS_SHARE: Final = Share()


class ImageInProgress(Protocol):
    """An image on its way through an engine."""

    @property
    def done(self) -> bool:
        """Return whether only decoding is left."""

    @property
    def progress(self) -> Progress:
        """Return how many of its steps are taken."""


I = TypeVar("I", bound=ImageInProgress)  # noqa: E741 - the one letter that says image


class EngineLike(Protocol[I]):
    """What the queue needs of an engine; see `generation.engine.Engine`."""

    def begin(self, request: GenerationRequest) -> list[I]:
        """Return the images of `request` at their first step."""

    def step(self, images: Sequence[I]) -> None:
        """Take one step of each of `images` that is not done."""

    def finish(self, image: I) -> GeneratedImage:
        """Return the picture of an image that is done."""


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
    JobCancelled, QueueClosed or another GenerationError.
    """

    job_id: int
    request: GenerationRequest
    listener: Listener
    started: asyncio.Future[None]
    images: asyncio.Future[list[GeneratedImage]]
    cancelled: threading.Event = field(default_factory=threading.Event)
    position: int | None = None

    async def taken_up_or_over(self) -> None:
        """Wait until the engine takes the job up, or it ends without that."""
        over: list[asyncio.Future[Any]] = [self.started, self.images]
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)


class GenerationQueue(Generic[I]):
    """Jobs in a fair order, at most `limit` of them waiting, one at a time on the engine.

    At most `member_limit` of them are one person's, or the fair order could not help: the
    queue would be full for everybody else.

    Used as an async context manager: entering starts the thread, which builds the engine
    by `make_engine`; leaving stops it after the step it is at and fails what is unfinished
    with QueueClosed.
    """

    def __init__(
        self,
        make_engine: Callable[[], EngineLike[I]],
        *,
        limit: int,
        member_limit: int | None = None,
    ) -> None:
        self._make_engine = make_engine
        self._limit = limit
        self._member_limit = member_limit
        self._reserved: Counter[Hashable] = Counter()
        self._waiting: FairOrder[Ticket] = FairOrder()
        self._running: Ticket | None = None
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._stopping = threading.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ready.add_done_callback(_retrieve)
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        # A daemon: a hung device must not keep a process alive that was told to stop.
        threading.Thread(target=self._work, name="engine", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        self._inbox.put(None)
        try:
            await asyncio.wait([self._stopped], timeout=_STOP_SECONDS)
            if not self._stopped.done():
                log.error("The engine did not stop within %s s; leaving it behind", _STOP_SECONDS)
        finally:
            for ticket in [*self._waiting, *filter(None, [self._running])]:
                _fail(ticket, QueueClosed())
            self._waiting = FairOrder()
            self._running = None

    async def ready(self) -> None:
        """Wait until the engine is loaded.

        Raises:
            GenerationError: it could not be loaded; the sentence says why.
        """
        await asyncio.shield(self._ready)

    @property
    def waiting(self) -> int:
        """Return how many jobs wait, places that are reserved included."""
        return len(self._waiting) + self._reserved.total()

    @contextmanager
    def reserve(self, member: Hashable = None) -> Iterator[None]:
        """Hold a place while a job is committed to storage, before it is submitted.

        Raises:
            MemberQueueFull: as many of this member's jobs are waiting as may.
            QueueFull: `limit` jobs are waiting.
        """
        most = self._limit if self._member_limit is None else self._member_limit
        of_member = self._waiting.waiting_of(member) + self._reserved[member]
        if member is not None and of_member >= most:
            raise MemberQueueFull(most)
        if self.waiting >= self._limit:
            raise QueueFull(self._limit)
        self._reserved[member] += 1
        try:
            yield
        finally:
            self._reserved[member] -= 1
            if not self._reserved[member]:
                del self._reserved[member]

    def submit(
        self,
        job_id: int,
        request: GenerationRequest,
        listener: Listener,
        share: Share = _NOBODYS_SHARE,
    ) -> Ticket:
        """Put a job into the queue and return its ticket; `share` says whose it is.

        It takes any job: the bound is kept by `reserve`, and what was accepted before a
        restart has to fit again. `listener` is called on the event loop.
        """
        if self._stopping.is_set():
            raise QueueClosed
        ticket = Ticket(
            job_id=job_id,
            request=request,
            listener=listener,
            started=self._loop.create_future(),
            images=self._loop.create_future(),
        )
        ticket.images.add_done_callback(_retrieve)
        self._waiting.add(ticket, share, cost(request))
        if self._running is None:
            self._next()
        else:
            self._tell_positions()
        return ticket

    def cancel(self, job_id: int) -> bool:
        """Cancel a job that is not over, and return whether there was one.

        A waiting job ends at once, a running one after its step, and never with pictures.
        """
        for ticket in self._waiting.jobs:
            if ticket.job_id == job_id:
                self._waiting.remove(ticket)
                _fail(ticket, JobCancelled())
                self._tell_positions()
                return True
        running = self._running
        if running is None or running.job_id != job_id or running.images.done():
            return False
        running.cancelled.set()
        if not running.started.done():
            # The engine may be loading, which can take as long as a download.
            _fail(running, JobCancelled())
        return True

    def _next(self) -> None:
        self._running = self._waiting.pop() if self._waiting else None
        if self._running is None:
            return
        self._inbox.put(self._running)
        self._tell_positions()

    def _tell_positions(self) -> None:
        """Tell each job its place if that has changed: others may be served before it now."""
        for position, ticket in enumerate(self._waiting, start=1):
            if ticket.position != position:
                ticket.position = position
                ticket.listener(Waiting(position))

    # What follows, up to `_make`, runs on the event loop but is posted by the engine thread.

    def _started(self, ticket: Ticket) -> None:
        if not ticket.started.done():
            ticket.started.set_result(None)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        if not ticket.images.done():
            ticket.listener(event)

    def _over(self, ticket: Ticket, outcome: list[GeneratedImage] | GenerationError) -> None:
        if ticket.cancelled.is_set():
            _fail(ticket, JobCancelled())
        elif isinstance(outcome, GenerationError):
            _fail(ticket, outcome)
        elif not ticket.images.done():
            ticket.images.set_result(outcome)
        if self._running is ticket:
            self._next()

    # From here on: the engine thread.

    def _work(self) -> None:
        try:
            engine = self._make_engine()
        except GenerationError as error:
            self._post(self._ready.set_exception, error)
        except Exception as error:
            log.exception("The engine could not be loaded")
            self._post(
                self._ready.set_exception,
                EngineFailed(f"The model could not be loaded ({_brief(error)}); see the log."),
            )
        else:
            self._post(self._ready.set_result, None)
            while (ticket := self._inbox.get()) is not None and not self._stopping.is_set():
                self._post(self._over, ticket, self._attempt(engine, ticket))
        self._post(self._stopped.set_result, None)

    def _attempt(
        self, engine: EngineLike[I], ticket: Ticket
    ) -> list[GeneratedImage] | GenerationError:
        """Return what came of a ticket; whatever breaks in the engine breaks this job alone."""
        try:
            return self._make(engine, ticket)
        except GenerationError as error:
            # Its traceback holds the latents, and whoever has the ticket holds the error.
            return error.with_traceback(None)
        except Exception as error:
            log.exception("The engine failed on job %s", ticket.job_id)
            return EngineFailed(
                f"The engine failed on this picture ({_brief(error)}); try other settings, or "
                "ask the operator to look at the log."
            )

    def _make(self, engine: EngineLike[I], ticket: Ticket) -> list[GeneratedImage]:
        self._check(ticket)
        self._post(self._started, ticket)
        images = engine.begin(ticket.request)
        self._post(self._tell, ticket, images[0].progress)
        while not all(image.done for image in images):
            self._check(ticket)
            engine.step(images)
            self._post(self._tell, ticket, images[0].progress)
        finished = []
        for image in images:
            self._check(ticket)
            finished.append(engine.finish(image))
        return finished

    def _check(self, ticket: Ticket) -> None:
        if ticket.cancelled.is_set():
            raise JobCancelled
        if self._stopping.is_set():
            raise QueueClosed

    def _post(self, callback: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("The event loop closed before the engine thread was done")


def _fail(ticket: Ticket, error: GenerationError) -> None:
    if not ticket.images.done():
        ticket.images.set_exception(error)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark a failure as seen: whoever holds the ticket may be gone by then."""
    if not future.cancelled():
        future.exception()


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
