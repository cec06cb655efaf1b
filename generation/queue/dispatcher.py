"""Gives jobs their turns on the engine, and handles what the engine thread reports.

All of it runs on the event loop, so nothing here needs a lock. `PostedEvents` passes the reports
of the engine thread to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ..errors import GenerationError
from ..timing import Measured
from ..workers.protocol import ModelLoad
from .tickets import JobCancelled, Ticket, ignore_unretrieved
from .timers import RefreshTimer, Watchdog
from .turns import Turns
from .updates import JobUpdates
from .worker import Inbox, Outcome, Stepped, WorkerEvents

log = logging.getLogger(__name__)

_ESTIMATE_SECONDS: Final = 0.5


class Dispatcher:
    """Starts and ends the turns of jobs, and tells jobs what changes for them.

    `ready` is done when an engine is loaded. `died` only ends with an error: the engine is lost for
    good.
    """

    def __init__(
        self, turns: Turns[Ticket], inbox: Inbox, *, default_model: str | None = None
    ) -> None:
        self._turns = turns
        self._default_model = default_model
        self.weights_sha256: dict[str, str] = {}
        """The hashes of the models that were loaded since the start."""
        self._forget_models()
        self._inbox = inbox
        self._updates = JobUpdates()
        self._refresh = RefreshTimer(self._tell_changes, lambda: turns.waiting)
        self._watchdog = Watchdog(
            lambda: self._updates.silence_limit(turns.running), self._handle_silence
        )
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.died: asyncio.Future[None] = loop.create_future()
        for future in (self.ready, self.died):
            future.add_done_callback(ignore_unretrieved)

    def _forget_models(self) -> None:
        """Note that a new engine has only the default model in memory."""
        if self._default_model is not None:
            self._turns.loaded, self._turns.beside = frozenset({self._default_model}), frozenset()

    def stop(self) -> None:
        """Stop the timers."""
        self._watchdog.stop()
        self._refresh.stop()

    def add(self, ticket: Ticket, *, alone: bool) -> None:
        """Add a job; with `alone` it runs ahead of all waiting jobs, and with no other job."""
        if alone:
            self._turns.restart(ticket, alone=True)
        else:
            self._turns.add(ticket)
        self._updates.tell_loading([ticket])
        self._start_turns()

    def cancel(self, job_id: int) -> bool:
        """Cancel a job; return False if there is no such job, or if it has ended."""
        for ticket in self._turns.unordered():
            if ticket.job_id == job_id:
                self._cancel_waiting(ticket)
                return True
        running = next((t for t in self._turns.running if t.job_id == job_id), None)
        if running is None or running.images.done():
            return False
        running.cancelled.set()
        if not running.started.done():
            # The engine may be loading, which can take as long as a download.
            running.fail(JobCancelled())
        return True

    def _cancel_waiting(self, ticket: Ticket) -> None:
        ticket.cancelled.set()
        self._turns.remove(ticket)
        if ticket.on_engine:
            # The job waits between two turns, so the engine thread still holds its images.
            self._inbox.wake()
        ticket.fail(JobCancelled())
        # Other jobs may have waited for this one, if it was to run alone.
        self._start_turns()

    def _start_turns(self) -> None:
        """Start turns while there is capacity."""
        # First, so that the estimates are there when the engine thread reports.
        self._refresh.request()
        was_idle = not self._turns.running
        while (ticket := self._turns.start()) is not None:
            ticket.active = True
            if ticket.on_engine:
                self._inbox.wake()
            else:
                self._inbox.hand_over(ticket)
            ticket.on_engine = True
        if was_idle:
            # Until now, nothing was expected of the engine.
            self._watchdog.reset()

    def _tell_changes(self) -> None:
        self._updates.refresh(self._turns.running, list(self._turns.ordered()))

    def _handle_silence(self) -> None:
        log.warning("The engine has given no sign for much longer than a step takes")
        self._updates.engine_silent()
        self._refresh.request()

    def _handle_answer(self) -> None:
        self._watchdog.reset()
        if self._updates.engine_answered():
            log.info("The engine goes on")
            self._refresh.request()

    # What follows is called for the engine thread: see WorkerEvents.

    def engine_ready(self, measured: Measured) -> None:
        """Start jobs on the engine that is loaded now."""
        self._turns.capacity = self._updates.engine_ready(measured)
        self._watchdog.reset()
        log.info("The engine has loaded its model")
        if not self.ready.done():
            self.ready.set_result(None)
        self._start_turns()

    def engine_lost(self) -> None:
        """Tell all jobs to wait for the next engine, which may take long to load."""
        self._updates.engine_lost()
        self._forget_models()
        self._refresh.request()

    def engine_died(self, error: GenerationError) -> None:
        """Note that there will be no engine."""
        for future in (self.ready, self.died):
            if not future.done():
                future.set_exception(error)

    def loading(self, model: str, tickets: list[Ticket]) -> None:
        """Tell jobs that their model is being loaded."""
        self._handle_answer()
        self._updates.model_loading(model, tickets)
        self._watchdog.reset()

    def model_loaded(self, model: str, result: ModelLoad) -> None:
        """Note which models are in memory now, and how fast one of them is."""
        speed = self._updates.model_loaded(model, result.measured, self._default_model)
        if speed is not None:
            self._turns.speeds[model] = speed
        self._turns.loaded, self._turns.beside = result.loaded, result.beside
        if result.weights_sha256 is not None:
            self.weights_sha256[model] = result.weights_sha256
        self._handle_answer()
        self._start_turns()

    def started(self, tickets: list[Ticket]) -> None:
        """Note that the engine has started jobs."""
        self._handle_answer()
        for ticket in tickets:
            if not ticket.started.done():
                ticket.started.set_result(None)

    def stepped(self, step: Stepped) -> None:
        """Tell jobs their progress, and end turns whose steps are used up."""
        self._handle_answer()
        self._updates.observe_step(step.load, step.seconds, step.model)
        if self._refresh.age >= _ESTIMATE_SECONDS:
            self._refresh.request()
        for ticket, progress in step.progress:
            ticket.advance(progress.step)
            if not ticket.images.done() and not ticket.cancelled.is_set():
                self._updates.tell_progress(ticket, progress)
            if self._turns.is_running(ticket) and self._turns.end_turn(ticket):
                ticket.active = False
                self._start_turns()

    def ended(self, ticket: Ticket, outcome: Outcome) -> None:
        """End a job with its pictures or an error."""
        self._handle_answer()
        if ticket.cancelled.is_set():
            ticket.fail(JobCancelled())
        elif isinstance(outcome, Exception):
            ticket.fail(outcome)
        elif not ticket.images.done():
            ticket.images.set_result(outcome)
        # The engine thread may be ahead, so the job may wait for a turn that it no longer needs.
        self._turns.remove(ticket)
        self._start_turns()

    def restart(self, ticket: Ticket, *, alone: bool) -> None:
        """Put a job ahead of all waiting jobs, to run again from its first step."""
        self._turns.remove(ticket)
        ticket.active = ticket.on_engine = False
        ticket.taken = 0
        ticket.after = "engine"
        ticket.nearest = None
        if ticket.cancelled.is_set():
            ticket.fail(JobCancelled())
        elif not ticket.images.done():
            self._turns.restart(ticket, alone=alone)
        self._start_turns()


class PostedEvents:
    """Has each event of the engine thread handled on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handler: WorkerEvents) -> None:
        self._loop = loop
        self._handler = handler

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Have `callback` called on the event loop."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("The event loop closed before the engine thread was done")

    def engine_ready(self, measured: Measured) -> None:
        """Post the event."""
        self.post(self._handler.engine_ready, measured)

    def engine_lost(self) -> None:
        """Post the event."""
        self.post(self._handler.engine_lost)

    def engine_died(self, error: GenerationError) -> None:
        """Post the event."""
        self.post(self._handler.engine_died, error)

    def loading(self, model: str, tickets: list[Ticket]) -> None:
        """Post the event."""
        self.post(self._handler.loading, model, tickets)

    def model_loaded(self, model: str, result: ModelLoad) -> None:
        """Post the event."""
        self.post(self._handler.model_loaded, model, result)

    def started(self, tickets: list[Ticket]) -> None:
        """Post the event."""
        self.post(self._handler.started, tickets)

    def stepped(self, step: Stepped) -> None:
        """Post the event."""
        self.post(self._handler.stepped, step)

    def ended(self, ticket: Ticket, outcome: Outcome) -> None:
        """Post the event."""
        self.post(self._handler.ended, ticket, outcome)

    def restart(self, ticket: Ticket, *, alone: bool) -> None:
        """Post the event."""
        self.post(lambda: self._handler.restart(ticket, alone=alone))
