"""Tells each job what changed for it: model loading, place in the queue, progress, estimates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Final

from ..timing import Measured
from ..values.events import Loading, Progress, Waiting
from .estimates import RemainingWork, TimingModel, finish_times
from .tickets import Ticket
from .turns import ModelSpeed

# An estimate is told again when it is wrong by this part of the remaining time.
_ESTIMATE_CHANGE: Final = 0.2
# The engine counts as silent after so many times the expected duration of its call, but never
# sooner than after so many seconds.
_SILENCE_RATIO: Final = 5.0
_SILENCE_SECONDS: Final = 4.0


class JobUpdates:
    """Works out places and finish times, and sends each job the events that are new to it.

    No finish time is told while the engine is lost or silent.
    """

    def __init__(self) -> None:
        self._timing: TimingModel | None = None
        # Those of the other models, which were loaded once.
        self._timings: dict[str | None, TimingModel] = {}
        self._is_loading = False
        self._was_lost = False
        self._is_silent = False
        self._ends: dict[Ticket, float] = {}

    def engine_ready(self, measured: Measured) -> float:
        """Note that an engine is loaded; return its capacity, the load of a full call."""
        self._timing = TimingModel(measured)
        self._is_silent = self._is_loading = False
        return self._timing.capacity

    def engine_lost(self) -> None:
        """Note that there is no engine until the next one is loaded."""
        self._timing = None
        self._is_loading = False
        self._ends = {}
        self._was_lost = True

    def model_loading(self, model: str, tickets: Iterable[Ticket]) -> None:
        """Tell jobs that their model is being loaded; the engine is silent meanwhile."""
        self._is_loading = True
        for ticket in tickets:
            if not ticket.images.done():
                ticket.tell(Loading(model=model))

    def model_loaded(
        self, model: str, measured: Measured | None, default: str | None
    ) -> ModelSpeed | None:
        """Note that a model was loaded, and return how its speed differs from the default one's.

        None stands for the default model, and for a model that could not be loaded.
        """
        self._is_loading = False
        if measured is None or model == default or self._timing is None:
            return None
        timing = self._timings[model] = TimingModel(measured)
        return ModelSpeed(timing.capacity, timing.pace / self._timing.pace)

    def engine_silent(self) -> None:
        """Note that the engine does not answer, so that all estimates are wrong."""
        self._is_silent = True
        self._ends = {}

    def engine_answered(self) -> bool:
        """Note that the engine answered; return whether it was silent before."""
        was_silent, self._is_silent = self._is_silent, False
        return was_silent

    def observe_step(self, load: float, seconds: float, model: str | None = None) -> None:
        """Learn how long a step of `load` took."""
        timing = self._timings.get(model, self._timing)
        if timing is not None and load:
            timing.observe(load, seconds)

    def _remaining(self, ticket: Ticket) -> RemainingWork:
        """Return the work left in a job, as work of the default model that takes as long."""
        timing = self._timings.get(ticket.model)
        if timing is None or self._timing is None:
            return ticket.remaining
        factor = timing.pace / self._timing.pace
        work = ticket.remaining
        return dataclasses.replace(work, load=factor * work.load, pixels=factor * work.pixels)

    def silence_limit(self, running: Sequence[Ticket]) -> float | None:
        """Return after how many seconds the engine counts as silent; None if it has no work."""
        if self._timing is None or not running or self._is_loading:
            return None
        works = [self._remaining(ticket) for ticket in running]
        step = self._timing.step(sum(work.load for work in works))
        decoding = sum(self._timing.decode(work) for work in works)
        return max(_SILENCE_SECONDS, _SILENCE_RATIO * (step + decoding))

    def refresh(self, running: Sequence[Ticket], waiting: Sequence[Ticket]) -> None:
        """Work out places and times again, and tell the changes; `waiting` is in order."""
        if self._timing is None:
            self.tell_loading([*running, *waiting])
            return
        self._estimate(self._timing, running, waiting)
        for position, ticket in enumerate(waiting, start=1):
            if not ticket.taken:
                self._tell_place(ticket, position)
        for ticket in running:
            self._tell_late_start(ticket)
        for ticket in (*running, *waiting):
            self._tell_silence(ticket)

    def tell_loading(self, tickets: Iterable[Ticket]) -> None:
        """Tell jobs that the model is being loaded, if so and unless they were told before."""
        if self._timing is not None:
            return
        for ticket in tickets:
            if self._was_lost and ticket.after == "bot":
                # The restart of the bot is old news by now.
                ticket.after = None
            loading = Loading("engine" if self._was_lost else ticket.after)
            if ticket.last_event != loading:
                ticket.nearest = None
                ticket.tell(loading)

    def tell_progress(self, ticket: Ticket, progress: Progress) -> None:
        """Tell a job its progress, with an estimate."""
        ticket.after = None
        ticket.tell(dataclasses.replace(progress, seconds=self._seconds(ticket)))

    def _tell_place(self, ticket: Ticket, position: int) -> None:
        last = ticket.last_event
        is_same = isinstance(last, Waiting) and last.position == position
        if is_same and not self._is_estimate_changed(ticket):
            return
        ticket.nearest = min(position, ticket.nearest or position)
        ticket.last_estimate = self._ends.get(ticket)
        ticket.tell(Waiting(position, self._seconds(ticket), ticket.nearest, ticket.after))

    def _tell_late_start(self, ticket: Ticket) -> None:
        """Tell a job that the engine has, but has not started yet, that it is late.

        The last event of such a job is a place in the queue, which it has no longer.
        """
        if self._is_silent and not isinstance(ticket.last_event, Progress):
            ticket.tell(dataclasses.replace(ticket.progress, late=True))

    def _tell_silence(self, ticket: Ticket) -> None:
        """Tell a started job that it is late, or no longer late."""
        last = ticket.last_event
        if isinstance(last, Progress) and last.late != self._is_silent:
            seconds = self._seconds(ticket)
            ticket.tell(Progress(last.step, last.steps, seconds, late=self._is_silent))

    def _is_estimate_changed(self, ticket: Ticket) -> bool:
        """Return whether the job now ends noticeably sooner or later than it was told."""
        end, last = self._ends.get(ticket), ticket.last_estimate
        if end is None or last is None:
            return end is not last
        return abs(end - last) > max(1.0, _ESTIMATE_CHANGE * (end - time.monotonic()))

    def _estimate(
        self, timing: TimingModel, running: Sequence[Ticket], waiting: Sequence[Ticket]
    ) -> None:
        if self._is_silent:
            return
        times = finish_times(
            [self._remaining(ticket) for ticket in running],
            [self._remaining(ticket) for ticket in waiting],
            timing,
        )
        now = time.monotonic()
        self._ends = {
            ticket: now + seconds
            for ticket, seconds in zip([*running, *waiting], times, strict=True)
        }

    def _seconds(self, ticket: Ticket) -> float | None:
        """Return the estimated seconds until the job is done; None without an estimate."""
        end = self._ends.get(ticket)
        return None if end is None else max(0.0, end - time.monotonic())
