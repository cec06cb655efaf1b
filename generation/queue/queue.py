"""The asyncio queue in front of the engine thread.

Everything that decides (`generation.queue.turns`: order, room, whose turn ends) happens on the
event loop and needs no lock. The engine thread (`generation.queue.worker`) takes all jobs that are
active forward together and posts what happens back to the loop; only that thread ever touches
the engine.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, Self

from ..errors import GenerationError
from ..timing import Measured
from ..values.events import Interruption
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest
from ..workers.protocol import EngineLike, I
from .admission import Limits, Owner, Place, Places
from .fairness import Share
from .tickets import JobCancelled, Listener, QueueClosed, Ticket
from .turns import Turns
from .updates import JobUpdates
from .watchdog import Watchdog
from .worker import Stepped, Worker

log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 30.0
_PREVIEW_SECONDS: Final = 1.0
_ESTIMATE_SECONDS: Final = 0.5
# With so many waiting, places and times are worked out again only so often: it takes the event
# loop milliseconds, and nobody would see the difference.
_MANY: Final = 100
_REFRESH_SECONDS: Final = 0.25
_DEFAULT_SHARE: Final = Share()


class GenerationQueue(Generic[I]):
    """Jobs in a fair order, at most `limit` of them waiting, as many on the engine as fit.

    At most `member_limit` of them are one person's and `group_limit` one server's, or the fair
    order could not help: the queue would be full for everybody else. Somebody with nothing
    waiting may come although it is full (`generation.queue.admission`). With `previews` progress
    carries small pictures.

    Used as an async context manager: entering starts the thread, which builds the engine
    by `make_engine`; leaving stops it after the step it is at, or at once if it can be broken
    off, and fails what is unfinished with QueueClosed.
    """

    def __init__(
        self,
        make_engine: Callable[[], EngineLike[I]],
        *,
        limit: int,
        member_limit: int | None = None,
        group_limit: int | None = None,
        previews: bool = True,
    ) -> None:
        self._places = Places(Limits(limit, member_limit, group_limit))
        self._turns: Turns[Ticket] = Turns()
        self._updates = JobUpdates()
        self._refreshed = 0.0
        self._refreshing: asyncio.Handle | None = None
        self._closed = False
        self._worker: Worker[I] = Worker(
            make_engine, _Reports(self), preview_seconds=_PREVIEW_SECONDS if previews else None
        )

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(
            lambda: self._updates.silence_limit(self._turns.running), self._is_silent
        )
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ready.add_done_callback(_retrieve)
        self._died: asyncio.Future[None] = self._loop.create_future()
        self._died.add_done_callback(_retrieve)
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        # A daemon: a hung device must not keep a process alive that was told to stop.
        threading.Thread(target=self._work, name="engine", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._watchdog.stop()
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._worker.stop()
        try:
            await asyncio.wait([self._stopped], timeout=_STOP_SECONDS)
            if not self._stopped.done():
                log.error("The engine did not stop within %s s; leaving it behind", _STOP_SECONDS)
        finally:
            for ticket in [*self._turns.unordered(), *self._turns.running]:
                ticket.fail(JobCancelled() if ticket.cancelled.is_set() else QueueClosed())
            self._turns = Turns()

    async def ready(self) -> None:
        """Wait until the engine is loaded.

        Raises:
            GenerationError: it could not be loaded; the sentence says why.
        """
        await asyncio.shield(self._ready)

    async def died(self) -> None:
        """Wait until the engine is lost for good, which raises; it returns never.

        Raises:
            GenerationError: the sentence says why.
        """
        await asyncio.shield(self._died)

    @property
    def is_dead(self) -> bool:
        """Return whether the engine is lost for good."""
        return self._died.done()

    @property
    def waiting(self) -> int:
        """Return how many jobs wait, places that are reserved included."""
        return self._turns.waiting + self._places.held

    @contextmanager
    def reserve(self, member: Hashable = None, group: Hashable = None) -> Iterator[Place]:
        """Hold a place for a job of a member of a group, until it is submitted or given up.

        Once the job is submitted the place is to be released at once, or it counts twice; what is
        still held at the end is given back.

        Raises:
            MemberQueueFull: as many of this member's jobs are waiting as may.
            GroupQueueFull: as many of their group's.
            QueueFull: as many of all.
        """
        place = self._places.take(Owner(group, member), self._turns)
        try:
            yield place
        finally:
            place.release()

    def submit(
        self,
        job_id: int,
        request: GenerationRequest,
        listener: Listener,
        share: Share = _DEFAULT_SHARE,
        *,
        read_source: Callable[[], Pixels] | None = None,
        alone: bool = False,
        after: Interruption | None = None,
    ) -> Ticket:
        """Put a job into the queue and return its ticket; `share` says whose it is.

        It takes any job: the bound is kept by `reserve`, and what was accepted before a
        restart has to fit again. `listener` is called on the event loop, and at once while the
        engine is loading. With `read_source` the pixels that the request starts from are not kept
        while it waits: the engine thread reads them, and the job ends with what that raises, if it
        does. A job that has to run `alone` is made ahead of all others, with nobody
        beside it. `after` says why one waits again that was accepted before.
        """
        if self._closed:
            raise QueueClosed
        ticket = Ticket(
            job_id=job_id,
            request=request,
            listener=listener,
            share=share,
            started=self._loop.create_future(),
            images=self._loop.create_future(),
            read_source=read_source,
            after=after,
        )
        ticket.images.add_done_callback(_retrieve)
        if alone:
            self._turns.restart(ticket, alone=True)
        else:
            self._turns.add(ticket)
        self._updates.tell_loading([ticket])
        self._admit()
        return ticket

    def cancel(self, job_id: int) -> bool:
        """Cancel a job that is not over, and return whether there was one.

        A waiting job ends at once, a running one after its step, and never with pictures.
        """
        for ticket in self._turns.unordered():
            if ticket.job_id == job_id:
                self._withdraw(ticket)
                return True
        running = next((t for t in self._turns.running if t.job_id == job_id), None)
        if running is None or running.images.done():
            return False
        running.cancelled.set()
        if not running.started.done():
            # The engine may be loading, which can take as long as a download.
            running.fail(JobCancelled())
        return True

    def _withdraw(self, ticket: Ticket) -> None:
        ticket.cancelled.set()
        self._turns.remove(ticket)
        if ticket.begun:
            # It waits between two turns, and the engine thread holds what it has so far.
            self._worker.wake()
        ticket.fail(JobCancelled())
        # It may have been a suspect, which others have to wait for.
        self._admit()

    def _admit(self) -> None:
        """Give turns for as long as there is room."""
        # Ahead of what the engine thread tells of them, so that the estimates are there by then.
        self._refresh_soon()
        was_idle = not self._turns.running
        while (ticket := self._turns.start()) is not None:
            ticket.active = True
            if ticket.begun:
                self._worker.wake()
            else:
                self._worker.submit(ticket)
            ticket.begun = True
        if was_idle:
            # Nothing was expected of the engine until now.
            self._watchdog.reset()

    def _refresh_soon(self) -> None:
        """Have places and times worked out again, once for all that changes until then."""
        if self._closed or self._refreshing is not None:
            return
        if self._turns.waiting <= _MANY:
            self._refreshing = self._loop.call_soon(self._refresh)
        else:
            pause = self._refreshed + _REFRESH_SECONDS - time.monotonic()
            self._refreshing = self._loop.call_later(max(0.0, pause), self._refresh)

    def _refresh(self) -> None:
        self._refreshing = None
        self._updates.refresh(self._turns.running, list(self._turns.ordered()))
        self._refreshed = time.monotonic()

    def _is_silent(self) -> None:
        log.warning("The engine has given no sign for much longer than a step takes")
        self._updates.engine_silent()
        self._refresh_soon()

    def _has_spoken(self) -> None:
        self._watchdog.reset()
        if self._updates.engine_answered():
            log.info("The engine goes on")
            self._refresh_soon()

    # What follows runs on the event loop, posted by the engine thread.

    def _is_ready(self, measured: Measured) -> None:
        self._turns.capacity = self._updates.engine_ready(measured)
        self._watchdog.reset()
        log.info("The engine has loaded its model")
        if not self._ready.done():
            self._ready.set_result(None)
        self._admit()

    def _is_dead(self, error: GenerationError) -> None:
        for future in (self._ready, self._died):
            if not future.done():
                future.set_exception(error)

    def _is_lost(self) -> None:
        """Tell everybody: nothing goes on until there is a new engine, which may take long."""
        self._updates.engine_lost()
        self._refresh_soon()

    def _has_begun(self, tickets: list[Ticket]) -> None:
        self._has_spoken()
        for ticket in tickets:
            if not ticket.started.done():
                ticket.started.set_result(None)

    def _has_stepped(self, step: Stepped) -> None:
        self._has_spoken()
        self._updates.observe_step(step.load, step.seconds)
        if time.monotonic() - self._refreshed >= _ESTIMATE_SECONDS:
            self._refresh_soon()
        for ticket, progress in step.progress:
            ticket.taken = progress.step
            if not ticket.images.done() and not ticket.cancelled.is_set():
                self._updates.tell_progress(ticket, progress)
            if self._turns.is_running(ticket) and self._turns.end_turn(ticket):
                ticket.active = False
                self._admit()

    def _is_over(self, ticket: Ticket, outcome: list[GeneratedImage] | Exception) -> None:
        self._has_spoken()
        if ticket.cancelled.is_set():
            ticket.fail(JobCancelled())
        elif isinstance(outcome, Exception):
            ticket.fail(outcome)
        elif not ticket.images.done():
            ticket.images.set_result(outcome)
        # It may wait for a turn that it does not need any more: the engine thread was ahead.
        self._turns.remove(ticket)
        self._admit()

    def _starts_over(self, ticket: Ticket, *, alone: bool) -> None:
        """Have a job wait, ahead of all others, to be made from its first step."""
        self._turns.remove(ticket)
        ticket.active = ticket.begun = False
        ticket.taken = 0
        ticket.after = "engine"
        ticket.nearest = None
        if ticket.cancelled.is_set():
            ticket.fail(JobCancelled())
        elif not ticket.images.done():
            self._turns.restart(ticket, alone=alone)
        self._admit()

    # From here on: the engine thread.

    def _work(self) -> None:
        self._worker.work()
        self.post(self._stopped.set_result, None)

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Have `callback` called on the event loop."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("The event loop closed before the engine thread was done")


class _Reports:
    """Posts the events of the engine thread to the event loop."""

    def __init__(self, owner: GenerationQueue[Any]) -> None:
        self._owner = owner

    def engine_ready(self, measured: Measured) -> None:
        self._owner.post(self._owner._is_ready, measured)

    def engine_died(self, error: GenerationError) -> None:
        self._owner.post(self._owner._is_dead, error)

    def engine_lost(self) -> None:
        self._owner.post(self._owner._is_lost)

    def started(self, tickets: list[Ticket]) -> None:
        self._owner.post(self._owner._has_begun, tickets)

    def stepped(self, step: Stepped) -> None:
        self._owner.post(self._owner._has_stepped, step)

    def ended(self, ticket: Ticket, outcome: list[GeneratedImage] | Exception) -> None:
        self._owner.post(self._owner._is_over, ticket, outcome)

    def restart(self, ticket: Ticket, *, alone: bool) -> None:
        self._owner.post(lambda: self._owner._starts_over(ticket, alone=alone))


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark a failure as seen: the code that holds the ticket may be gone by then."""
    if not future.cancelled():
        future.exception()
