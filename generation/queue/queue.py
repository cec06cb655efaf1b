"""The asyncio queue in front of the engine thread.

The queue admits jobs and runs the engine thread. `generation.queue.dispatcher` decides on the event
loop which jobs have a turn. `generation.queue.worker` takes the jobs with a turn forward together.
Only the engine thread ever touches the engine.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, Self

from ..values.events import Interruption
from ..values.request import GenerationRequest
from ..workers.protocol import EngineLike, I
from .admission import LimitsFor, Owner, Place, Places
from .dispatcher import Dispatcher, PostedEvents
from .fairness import Share
from .tickets import JobCancelled, Listener, QueueClosed, Ticket, ignore_unretrieved
from .turns import Turns
from .worker import Inbox, Worker

log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 30.0
_PREVIEW_SECONDS: Final = 1.0
_DEFAULT_SHARE: Final = Share()


class GenerationQueue(Generic[I]):
    """Jobs in a fair order, as many on the engine as fit.

    `limits_for` returns how many jobs may wait: in all, of one person, and of one server. Without
    the limits one person could fill the queue, and the fair order could not help anybody. A person
    without a waiting job may be admitted although the queue is full (`generation.queue.admission`).
    With `previews` the progress carries small pictures. With a `default_model`, the engine has
    several models: jobs whose requests name none are for the default one. Without it the engine has
    one model.

    Used as an async context manager. Entering starts the engine thread, which builds the engine
    with `make_engine`. Leaving stops the thread after the current step, or in the middle of a call
    if the engine allows that, and fails unfinished jobs with QueueClosed.
    """

    def __init__(
        self,
        make_engine: Callable[[], EngineLike[I]],
        *,
        limits_for: LimitsFor,
        previews: bool = True,
        default_model: str | None = None,
    ) -> None:
        self._make_engine = make_engine
        self._preview_seconds = _PREVIEW_SECONDS if previews else None
        self._places = Places(limits_for)
        self._default_model = default_model
        self._turns: Turns[Ticket] = Turns()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        inbox = Inbox()
        self._dispatcher = Dispatcher(self._turns, inbox, default_model=self._default_model)
        self._events = PostedEvents(self._loop, self._dispatcher)
        self._worker: Worker[I] = Worker(
            self._make_engine,
            inbox,
            self._events,
            preview_seconds=self._preview_seconds,
            default_model=self._default_model,
        )
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        # A daemon thread, so that a device that hangs cannot keep the process alive.
        threading.Thread(target=self._work, name="engine", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._dispatcher.stop()
        self._worker.stop()
        try:
            await asyncio.wait([self._stopped], timeout=_STOP_SECONDS)
            if not self._stopped.done():
                log.error("The engine did not stop within %s s; leaving it behind", _STOP_SECONDS)
        finally:
            for ticket in self._turns.clear():
                ticket.fail(JobCancelled() if ticket.cancelled.is_set() else QueueClosed())

    async def ready(self) -> None:
        """Wait until the engine is loaded.

        Raises:
            GenerationError: the engine could not be loaded; the sentence says why.
        """
        await asyncio.shield(self._dispatcher.ready)

    async def died(self) -> None:
        """Wait until the engine is lost for good; this never returns.

        Raises:
            GenerationError: the sentence says why.
        """
        await asyncio.shield(self._dispatcher.died)

    @property
    def is_dead(self) -> bool:
        """Return whether the engine is lost for good."""
        return self._dispatcher.died.done()

    def weights_sha256(self, model: str) -> str | None:
        """Return the hash of a model's files, if the model was loaded since the start."""
        return self._dispatcher.weights_sha256.get(model)

    @property
    def waiting(self) -> int:
        """Return how many jobs wait, with the places that are reserved."""
        return self._turns.waiting + self._places.held

    @contextmanager
    def reserve(self, member: Hashable = None, group: Hashable = None) -> Iterator[Place]:
        """Hold a place for a job of a member of a group, until the end of the block.

        Release the place as soon as the job is submitted, or the job counts twice.

        Raises:
            MemberQueueFull: the member's limit is reached.
            GroupQueueFull: the group's limit is reached.
            QueueFull: the limit of all jobs is reached.
        """
        place = self._places.hold(Owner(group, member), self._turns)
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
        read_request: Callable[[], GenerationRequest] | None = None,
        alone: bool = False,
        after: Interruption | None = None,
    ) -> Ticket:
        """Add a job of the owner in `share`, and return its ticket.

        Every job is waiting: `reserve` holds the limits, and jobs from before a restart have to fit
        again. `listener` is called on the event loop, the first time at once if the engine is still
        loading. With `read_request` the pixels of the request are not kept while the job waits: the
        engine thread reads the request with its pixels, and an error of `read_request` ends the
        job. A job that runs `alone` is ahead of all waiting jobs, with no other job beside it.
        `after` says why a job that was accepted earlier waits again.

        Raises:
            QueueClosed: the queue is shutting down.
        """
        if self._closed:
            raise QueueClosed
        ticket = Ticket(
            job_id=job_id,
            request=request,
            listener=listener,
            share=share,
            model=self._model_of(request),
            started=self._loop.create_future(),
            images=self._loop.create_future(),
            read_request=read_request,
            after=after,
        )
        ticket.images.add_done_callback(ignore_unretrieved)
        self._dispatcher.add(ticket, alone=alone)
        return ticket

    def _model_of(self, request: GenerationRequest) -> str | None:
        if self._default_model is None:
            return None
        return request.model or self._default_model

    def cancel(self, job_id: int) -> bool:
        """Cancel a job; return False if there is no such job, or if it has ended.

        A waiting job ends at once, a running job after its step, and neither has pictures.
        """
        return self._dispatcher.cancel(job_id)

    def _work(self) -> None:
        """Run the engine thread."""
        self._worker.work()
        self._events.post(self._stopped.set_result, None)
