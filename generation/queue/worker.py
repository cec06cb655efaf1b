"""The engine thread: takes all active jobs forward together, one step at a time.

The engine thread does not decide the order of jobs. It is given tickets, takes steps of the active
ones, and reports what happened. It replaces an engine that is lost.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..errors import EngineFailed, EngineLost, GenerationError, SetAside, brief
from ..timing import Measured
from ..values.events import Progress
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest
from ..workers.protocol import EngineLike, I, ModelLoad
from .engine_slot import EngineSlot, ModelLoading
from .running import RunningJobs, by_model
from .supervisor import Decision, EngineAction, Supervisor
from .tickets import JobCancelled, Ticket

log = logging.getLogger(__name__)

R = TypeVar("R")
Outcome = list[GeneratedImage] | Exception


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step of several jobs on one model: their progress, the load of all, and the duration."""

    progress: list[tuple[Ticket, Progress]]
    load: float
    seconds: float
    model: str | None = None


class WorkerEvents(Protocol):
    """What the engine thread reports."""

    def engine_ready(self, measured: Measured) -> None:
        """Handle that an engine is loaded."""

    def engine_lost(self) -> None:
        """Handle that the engine is lost, and that another is being loaded."""

    def engine_died(self, error: GenerationError) -> None:
        """Handle that there is no engine, and will be none."""

    def loading(self, model: str, tickets: list[Ticket]) -> None:
        """Handle that a model is being loaded for jobs; no job takes a step meanwhile."""

    def model_loaded(self, model: str, result: ModelLoad) -> None:
        """Handle that a model was loaded, or could not be."""

    def started(self, tickets: list[Ticket]) -> None:
        """Handle that the engine has started jobs."""

    def stepped(self, step: Stepped) -> None:
        """Handle a step."""

    def ended(self, ticket: Ticket, outcome: Outcome) -> None:
        """Handle the end of a job, with its pictures or an error."""

    def restart(self, ticket: Ticket, *, alone: bool) -> None:
        """Run a job again from its first step; with `alone` no other job may run beside it."""


class _CallFailed(Exception):
    """A call of the engine failed, and its jobs are dealt with; the turn goes on."""


class _EngineReplaced(Exception):
    """The engine was replaced or given up; the turn is over."""


class Inbox:
    """Passes jobs to the engine thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()

    def hand_over(self, ticket: Ticket) -> None:
        """Hand over a job to run."""
        self._queue.put(ticket)

    def wake(self) -> None:
        """Make the engine thread look at its jobs again: one of them was changed."""
        self._queue.put(None)

    @property
    def is_empty(self) -> bool:
        """Return whether nothing was handed over since the last `receive`."""
        return self._queue.empty()

    def receive(self, *, wait: bool) -> list[Ticket]:
        """Return the jobs that were handed over; with `wait`, wait for a job or for `wake`."""
        tickets = [self._queue.get()] if wait else []
        while not self._queue.empty():
            tickets.append(self._queue.get())
        return [ticket for ticket in tickets if ticket is not None]


class Worker(Generic[I]):
    """Runs `work` in the engine thread until `stop` is called."""

    def __init__(
        self,
        make_engine: Callable[[], EngineLike[I]],
        inbox: Inbox,
        events: WorkerEvents,
        *,
        preview_seconds: float | None,
        default_model: str | None = None,
    ) -> None:
        self._events = events
        self._preview_seconds = preview_seconds
        self._inbox = inbox
        self._slot = EngineSlot(make_engine)
        self._models = ModelLoading(default_model, events.model_loaded)
        self._jobs: RunningJobs[I] = RunningJobs()
        self._supervisor: Supervisor[Ticket] = Supervisor()
        # The jobs of the current call: the suspects if the engine is lost in it.
        self._in_call: list[Ticket] = []

    def stop(self) -> None:
        """End after the current step, or sooner if the engine can end in the middle of a call."""
        self._slot.stop()
        self._inbox.wake()

    def work(self) -> None:
        """Load the engine and serve jobs until `stop`; the body of the engine thread."""
        try:
            self._handle_load(self._slot.load())
            while self._slot.engine is not None and not self._slot.is_stopping:
                self._turn(self._slot.engine)
        except Exception as error:
            log.exception("The engine thread ends")
            self._events.engine_died(
                EngineFailed(f"The engine thread broke ({brief(error)}); see the log.")
            )
        finally:
            self._jobs.clear()
            self._slot.close()

    def _handle_load(self, loaded: Measured | GenerationError) -> None:
        if isinstance(loaded, Measured):
            self._jobs.use(loaded)
            self._models.engine_replaced()
            self._events.engine_ready(loaded)
        else:
            self._die(loaded)

    def _die(self, error: GenerationError) -> None:
        # When the queue stops, the error is only that the engine was closed.
        if not self._slot.is_stopping:
            self._events.engine_died(error)

    def _turn(self, engine: EngineLike[I]) -> None:
        """Start new jobs, take one step of one size of pictures, and decode what is denoised."""
        try:
            self._models.introduce(engine)
            new = self._receive(engine)
            if self._slot.is_stopping:
                return
            self._end_cancelled(list(self._jobs))
            self._jobs.coming = self._end_cancelled(new)
            for tickets in by_model(self._jobs.coming):
                self._start(engine, tickets)
            self._jobs.coming = []
            self._step(engine, self._jobs.next_step())
            if not self._slot.is_stopping:
                self._finish(engine)
        except EngineLost as error:
            others = self._jobs.others(self._in_call)
            self._replace(self._supervisor.engine_lost(self._in_call, others), str(error))
        except _EngineReplaced:
            pass
        self._in_call, self._jobs.coming = [], []

    def _receive(self, engine: EngineLike[I]) -> list[Ticket]:
        """Return the new jobs; wait for one if there is nothing to do."""
        is_idle = not self._jobs.have_work
        if is_idle and self._inbox.is_empty:
            engine.release_unused()
        return self._inbox.receive(wait=is_idle)

    def _end_cancelled(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """End the jobs that are cancelled, and return the others.

        Each ticket is checked once, since the event loop may cancel it at any time. A job that is
        neither ended nor started would keep its place for ever.
        """
        others = list[Ticket]()
        for ticket in tickets:
            if ticket.cancelled.is_set():
                self._end(ticket, JobCancelled())
            else:
                others.append(ticket)
        return others

    def _use_model(self, engine: EngineLike[I], tickets: Sequence[Ticket]) -> bool:
        """Load the model that all of `tickets` need; if that fails, end the jobs that need it."""
        model = tickets[0].model
        if model is None or self._models.is_loaded(model):
            return True
        self._events.loading(model, list(tickets))
        self._in_call = list(tickets)
        failure = self._models.load(engine, model)
        if failure is None:
            return True
        for ticket in dict.fromkeys((*tickets, *self._jobs.of_model(model))):
            self._end(ticket, failure)
        return False

    def _start(self, engine: EngineLike[I], tickets: Sequence[Ticket]) -> None:
        if not self._use_model(engine, tickets):
            return
        requests = self._read_requests(tickets)
        if not requests:
            return
        try:
            begun = self._call(list(requests), lambda: engine.begin(list(requests.values())))
        except _CallFailed:
            return
        started = []
        for ticket, images in zip(requests, begun, strict=True):
            if isinstance(images, GenerationError):
                self._end(ticket, images)
            else:
                self._jobs.add(ticket, images)
                started.append(ticket)
        self._events.started(started)
        progress = [(ticket, self._jobs[ticket].images[0].progress) for ticket in started]
        self._events.stepped(Stepped(progress, load=0, seconds=0))

    def _read_requests(self, tickets: Sequence[Ticket]) -> dict[Ticket, GenerationRequest]:
        """Return requests with their pixels; a job whose pictures cannot be read ends here."""
        requests = dict[Ticket, GenerationRequest]()
        for ticket in tickets:
            try:
                requests[ticket] = ticket.request_with_pixels()
            except Exception as error:
                self._end(ticket, error)
        return requests

    def _step(self, engine: EngineLike[I], tickets: list[Ticket]) -> None:
        if not tickets or not self._use_model(engine, tickets):
            return
        images = [image for ticket in tickets for image in self._jobs[ticket].unfinished.values()]
        load = sum(ticket.load for ticket in tickets)
        start = time.perf_counter()
        try:
            self._call(tickets, lambda: engine.step(images))
        except _CallFailed:
            return
        seconds = time.perf_counter() - start
        progress = [
            (ticket, self._jobs[ticket].progress(engine, self._preview_seconds, ticket.job_id))
            for ticket in tickets
        ]
        self._events.stepped(Stepped(progress, load, seconds, tickets[0].model))

    def _finish(self, engine: EngineLike[I]) -> None:
        """Decode images that are denoised, and end the jobs that are complete or failed.

        At most one decoder call is made, so that the next step of other jobs does not wait for
        longer. A job of several pictures may take several turns.
        """
        for ticket in self._jobs:
            if (failure := self._jobs[ticket].failure) is not None:
                self._end(ticket, failure)
        ready = self._jobs.next_decoding()
        if not ready:
            return
        tickets = list(dict.fromkeys(decoding.ticket for decoding in ready))
        if not self._use_model(engine, tickets):
            return
        try:
            pictures = self._call(tickets, lambda: engine.finish([each.image for each in ready]))
        except _CallFailed:
            return
        for decoding, picture in zip(ready, pictures, strict=True):
            if picture is not None:
                self._jobs[decoding.ticket].pictures[decoding.number] = picture
                self._supervisor.picture_made()
        for ticket in tickets:
            self._end_if_complete(ticket)

    def _end_if_complete(self, ticket: Ticket) -> None:
        job = self._jobs[ticket]
        if (failure := job.failure) is not None:
            self._end(ticket, failure)
        elif not job.unfinished:
            self._end(ticket, job.ordered_pictures)

    def _end(self, ticket: Ticket, outcome: Outcome) -> None:
        self._jobs.remove(ticket)
        if isinstance(outcome, Exception):
            # The traceback would keep the latents alive for as long as the error is kept.
            outcome = outcome.with_traceback(None)
        self._events.ended(ticket, outcome)

    def _call(self, tickets: list[Ticket], call: Callable[[], R]) -> R:
        """Return the result of a call of the engine for some jobs.

        Raises:
            EngineLost: the engine is lost.
            _CallFailed: the call failed, and its jobs are dealt with.
            _EngineReplaced: the call failed, and the engine was replaced.
        """
        self._in_call = tickets
        try:
            return call()
        except EngineLost:
            raise
        except Exception as error:
            self._handle_failure(tickets, error)
            raise _CallFailed from error

    def _handle_failure(self, tickets: list[Ticket], error: Exception) -> None:
        jobs = ", ".join(str(ticket.job_id) for ticket in tickets)
        log.error("The engine failed on job %s", jobs, exc_info=error)
        decision = self._supervisor.call_failed(tickets, self._jobs.others(tickets))
        if decision.engine is not EngineAction.KEEP:
            self._replace(decision, "The engine failed on several pictures in a row.")
            raise _EngineReplaced
        for ticket in decision.fail:
            self._end(ticket, _failed_by(error))
        self._restart(decision)

    def _replace(self, decision: Decision[Ticket], reason: str) -> None:
        """Deal with the jobs of a lost engine, and load another engine unless it is given up."""
        if self._slot.is_stopping:
            return
        log.error("%s Another is started", reason)
        # First, so that no job is told a place or a time of the lost engine.
        self._events.engine_lost()
        for ticket in decision.set_aside:
            log.error("Job %s broke the engine again and is set aside", ticket.job_id)
            self._end(ticket, SetAside())
        self._restart(decision)
        if decision.engine is EngineAction.REPLACE:
            self._handle_load(self._slot.replace())
            return
        self._slot.close()
        self._die(_given_up())

    def _restart(self, decision: Decision[Ticket]) -> None:
        for tickets, alone in ((decision.run_alone, True), (decision.run_again, False)):
            for ticket in tickets:
                self._jobs.remove(ticket)
                self._events.restart(ticket, alone=alone)


def _failed_by(error: Exception) -> EngineFailed:
    return EngineFailed(
        f"The engine failed on this picture ({brief(error)}); try other settings, or ask the "
        "operator to look at the log."
    )


def _given_up() -> EngineFailed:
    return EngineFailed(
        "The engine broke several times in a row without making a picture; look at the log, then "
        "run imagine-bot doctor."
    )
