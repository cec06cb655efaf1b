"""What lies ahead of each job: worked out from the queue, and told to those for whom it is news."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Final

from .eta import Pace, finish_times
from .events import Loading, Progress, Waiting
from .pace import Measured
from .tickets import Ticket

# By what part of the time that is left an estimate has to be wrong before it is given again.
_IS_NEWS: Final = 0.2
# A silence of so many times what may take the engine so long, but never of less than so many
# seconds, is longer than anybody should be told a time.
_SILENCE_RATIO: Final = 5.0
_SILENCE_SECONDS: Final = 4.0


class Outlook:
    """Tells jobs that the model is loaded, their places, how far they are, and when they are done.

    It knows no more of the engine than it was told last. While there is none, or none that gives
    a sign, nobody is told a time.
    """

    def __init__(self) -> None:
        self._pace: Pace | None = None
        self._was_lost = False
        self._is_silent = False
        self._ends: dict[Ticket, float] = {}

    def is_ready(self, measured: Measured) -> float:
        """Take note that an engine is loaded; return the load of a full call."""
        self._pace = Pace(measured)
        self._is_silent = False
        return self._pace.capacity

    def is_lost(self) -> None:
        """Take note that there is no engine until the next is loaded."""
        self._pace = None
        self._ends = {}
        self._was_lost = True

    def is_silent(self) -> None:
        """Take note that the engine gives no sign: what was estimated is wrong."""
        self._is_silent = True
        self._ends = {}

    def has_spoken(self) -> bool:
        """Take note of a sign of the engine; return whether it was thought to be silent."""
        was_silent, self._is_silent = self._is_silent, False
        return was_silent

    def saw_step(self, load: float, seconds: float) -> None:
        """Take note of what a step really took."""
        if self._pace is not None and load:
            self._pace.saw(load, seconds)

    def patience(self, running: Sequence[Ticket]) -> float | None:
        """Return how many seconds of silence are no news; None while nothing is expected."""
        if self._pace is None or not running:
            return None
        step = self._pace.step(sum(ticket.load for ticket in running))
        decoding = sum(self._pace.decode(ticket.left) for ticket in running)
        return max(_SILENCE_SECONDS, _SILENCE_RATIO * (step + decoding))

    def refresh(self, running: Sequence[Ticket], waiting: Sequence[Ticket]) -> None:
        """Work out again what lies ahead, `waiting` given in its order, and tell what is news."""
        if self._pace is None:
            self.tell_of_loading([*running, *waiting])
            return
        self._estimate(self._pace, running, waiting)
        for position, ticket in enumerate(waiting, start=1):
            if not ticket.taken:
                self._tell_place(ticket, position)
        for ticket in running:
            self._tell_of_beginning(ticket)
        for ticket in (*running, *waiting):
            self._tell_of_silence(ticket)

    def tell_of_loading(self, tickets: Iterable[Ticket]) -> None:
        """Tell jobs that the model is loaded, if it is and they do not know."""
        if self._pace is not None:
            return
        for ticket in tickets:
            if self._was_lost and ticket.after == "bot":
                # That is old news by now.
                ticket.after = None
            loading = Loading("engine" if self._was_lost else ticket.after)
            if ticket.told != loading:
                ticket.nearest = None
                ticket.tell(loading)

    def tell_progress(self, ticket: Ticket, progress: Progress) -> None:
        """Tell a job how far it is, with an estimate."""
        ticket.after = None
        ticket.tell(dataclasses.replace(progress, seconds=self._seconds(ticket)))

    def _tell_place(self, ticket: Ticket, position: int) -> None:
        told = ticket.told
        is_same = isinstance(told, Waiting) and told.position == position
        if is_same and not self._is_news(ticket):
            return
        ticket.nearest = min(position, ticket.nearest or position)
        ticket.told_end = self._ends.get(ticket)
        ticket.tell(Waiting(position, self._seconds(ticket), ticket.nearest, ticket.after))

    def _tell_of_beginning(self, ticket: Ticket) -> None:
        """Tell a job that it is late if the engine took it up and has been silent since.

        Such a job was told its place at most, and has no place any more.
        """
        if self._is_silent and not isinstance(ticket.told, Progress):
            ticket.tell(Progress(ticket.taken, ticket.steps, late=True))

    def _tell_of_silence(self, ticket: Ticket) -> None:
        """Tell a job that was begun that it is late, or is not any more."""
        told = ticket.told
        if isinstance(told, Progress) and told.late != self._is_silent:
            seconds = self._seconds(ticket)
            ticket.tell(Progress(told.step, told.steps, seconds, late=self._is_silent))

    def _is_news(self, ticket: Ticket) -> bool:
        """Return whether a job ends so much sooner or later than it was told that it shows."""
        end = self._ends.get(ticket)
        if end is None or ticket.told_end is None:
            return end is not ticket.told_end
        return abs(end - ticket.told_end) > max(1.0, _IS_NEWS * (end - time.monotonic()))

    def _estimate(self, pace: Pace, running: Sequence[Ticket], waiting: Sequence[Ticket]) -> None:
        if self._is_silent:
            return
        times = finish_times(
            [ticket.left for ticket in running], [ticket.left for ticket in waiting], pace
        )
        now = time.monotonic()
        self._ends = {
            ticket: now + seconds
            for ticket, seconds in zip([*running, *waiting], times, strict=True)
        }

    def _seconds(self, ticket: Ticket) -> float | None:
        """Return how long a job will still take, as far as is known."""
        end = self._ends.get(ticket)
        return None if end is None else max(0.0, end - time.monotonic())
