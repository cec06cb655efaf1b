"""Which jobs are on the engine, and which come next: turns in a fair order.

Jobs are taken up in a fair order for as long as the engine has room: a UNet call takes only
so many rows. A job holds its place for a turn of so many steps, a whole picture at usual
settings. Then, if others wait, it waits for its next turn with what it has so far: small jobs
are not stuck behind long ones, and pictures of equal length are still finished one after the
other, which is sooner for most than all at the same time. A job that fills the room several
times over has as many steps fewer in a turn, because nobody is taken up beside it.

It knows no clock, no thread and no event loop, so a simulation can drive it through a day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar, cast

from .fairness import FairOrder, Share, Turns

TURN_STEPS: Final = 30
S = TypeVar("S", bound=Hashable)


def turn_steps(load: float, room: float | None) -> int:
    """Return how many steps of `load` are a turn: at most the time of TURN_STEPS full calls.

    `room` is the load of a full call, None while it is not known.
    """
    if room is None:
        return TURN_STEPS
    return max(1, min(TURN_STEPS, int(TURN_STEPS * room / load)))


class SizeTurns(Generic[S]):
    """Which of several sizes of pictures takes the next step.

    They share the engine's time by how many jobs each has, so that small pictures are not held up
    by each step of large ones.
    """

    def __init__(self) -> None:
        self._turns = Turns()

    def next(self, loads: Mapping[S, Sequence[float]]) -> S:
        """Return whose step it is, given the load of each job that is to take one, by size.

        Raises:
            IndexError: there is none.
        """
        if len(loads) == 1:
            return next(iter(loads))
        for number, size in enumerate(loads):
            self._turns.wait(size, number)
        chosen = cast("S", self._turns.first())
        self._turns.serve(chosen, sum(loads[chosen]) / len(loads[chosen]))
        for other in loads.keys() - {chosen}:
            self._turns.leave(other)
        return chosen


class Schedulable(Protocol):
    """What has to be known of a job. The schedule writes `turn_ends` and `alone`."""

    turn_ends: int
    alone: bool

    @property
    def share(self) -> Share:
        """Return whose it is."""

    @property
    def steps(self) -> int:
        """Return how many steps it takes in all."""

    @property
    def taken(self) -> int:
        """Return how many of them are done."""

    @property
    def load(self) -> float:
        """Return what a step of it takes: rows x pixels, in millions."""

    def __hash__(self) -> int: ...


J = TypeVar("J", bound=Schedulable)


class Schedule(Generic[J]):
    """Jobs that wait and jobs that run, which together have a load of about `room`.

    While `room` is None, nobody knows how much fits: one job runs at a time.
    """

    def __init__(self, room: float | None = None) -> None:
        self.room = room
        self._waiting: FairOrder[J] = FairOrder()
        # Ahead of all others: they had their turn, and lost it with an engine that broke.
        self._returned: deque[J] = deque()
        self._suspects: deque[J] = deque()
        self._running: dict[J, None] = {}

    @property
    def running(self) -> list[J]:
        """Return the jobs whose turn it is."""
        return list(self._running)

    @property
    def waiting(self) -> int:
        """Return how many jobs wait."""
        return len(self._waiting) + len(self._suspects) + len(self._returned)

    def waiting_of(self, member: Hashable) -> int:
        """Return how many jobs of a member wait for a turn."""
        return self._waiting.waiting_of(member)

    def waiting_in(self, group: Hashable) -> int:
        """Return how many jobs of a group wait for a turn."""
        return self._waiting.waiting_in(group)

    def is_running(self, job: J) -> bool:
        """Return whether it is this job's turn."""
        return job in self._running

    def unordered(self) -> Iterator[J]:
        """Yield the jobs that wait, in no order."""
        yield from self._suspects
        yield from self._returned
        yield from self._waiting.jobs

    def ordered(self) -> Iterator[J]:
        """Yield the jobs that wait, the next one first, if nothing else comes."""
        yield from self._suspects
        yield from self._returned
        yield from self._waiting

    def add(self, job: J) -> None:
        """Have a job wait for a turn, which costs its member the steps of one turn at most."""
        steps = min(job.steps - job.taken, turn_steps(job.load, self.room))
        self._waiting.add(job, job.share, steps * job.load)

    def start(self) -> J | None:
        """Return the job that runs from now on, if the load of those that run leaves room."""
        job = self._next()
        if job is not None:
            self._running[job] = None
            job.turn_ends = job.taken + turn_steps(job.load, self.room)
        return job

    def _next(self) -> J | None:
        if self._suspects:
            # Alone, so that it is known who did it if the engine breaks again.
            return None if self._running else self._suspects.popleft()
        if self._running and not self._has_room():
            return None
        if self._returned:
            return self._returned.popleft()
        return self._waiting.pop() if len(self._waiting) else None

    def _has_room(self) -> bool:
        if self.room is None or any(job.alone for job in self._running):
            return False
        return sum(job.load for job in self._running) < self.room

    def end_turn(self, job: J) -> bool:
        """Have a running job wait for its next turn, if this one is over and anybody waits."""
        is_over = job.turn_ends <= job.taken < job.steps
        # Nobody may be beside a suspect, so it keeps the engine until it is done.
        if not is_over or job.alone or not self.waiting:
            return False
        del self._running[job]
        self.add(job)
        return True

    def start_over(self, job: J, *, alone: bool) -> None:
        """Have a job wait ahead of all others; nobody is to be beside it if it is `alone`."""
        self.remove(job)
        job.alone = alone
        (self._suspects if alone else self._returned).append(job)

    def remove(self, job: J) -> None:
        """Forget a job, wherever it is."""
        self._running.pop(job, None)
        if job in self._waiting.jobs:
            self._waiting.remove(job)
        for ahead in (self._suspects, self._returned):
            if job in ahead:
                ahead.remove(job)
