"""Which jobs run on the engine, and which run next: turns in a fair order.

Jobs start in a fair order until the engine has no capacity left, since a UNet call takes only so
many rows. A turn is so many steps, which is a whole picture at usual settings. After its turn a job
keeps its latents and waits for its next turn, if other jobs wait. So small jobs are not stuck
behind long ones. Pictures of equal length are still finished one after the other, which is sooner
for most people than all at the same time. A job that is larger than the capacity has shorter turns,
because no other job runs beside it.

This module knows no clock, no thread and no event loop, so a simulation can run it through a day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar, cast

from .fairness import FairQueue, FlowQueue, Share

TURN_STEPS: Final = 30
S = TypeVar("S", bound=Hashable)


def turn_steps(load: float, capacity: float | None) -> int:
    """Return how many steps of `load` a turn has: at most the time of TURN_STEPS full calls.

    `capacity` is the load of a full call, or None while it is unknown.
    """
    if capacity is None:
        return TURN_STEPS
    return max(1, min(TURN_STEPS, int(TURN_STEPS * capacity / load)))


class FairSizes(Generic[S]):
    """Chooses which of several picture sizes takes the next step.

    Sizes share the engine's time in proportion to their jobs, so small pictures do not wait for
    every step of large ones.
    """

    def __init__(self) -> None:
        self._sizes = FlowQueue()

    def choose(self, loads: Mapping[S, Sequence[float]]) -> S:
        """Return the size that takes the next step; `loads` holds the load of each job by size.

        Raises:
            IndexError: `loads` is empty.
        """
        if len(loads) == 1:
            return next(iter(loads))
        for number, size in enumerate(loads):
            self._sizes.enqueue(size, number)
        chosen = cast("S", self._sizes.first())
        self._sizes.serve(chosen, sum(loads[chosen]) / len(loads[chosen]))
        for other in loads.keys() - {chosen}:
            self._sizes.withdraw(other)
        return chosen


class TurnJob(Protocol):
    """What `Turns` knows of a job; it writes `turn_ends` and `alone`."""

    turn_ends: int
    alone: bool

    @property
    def share(self) -> Share:
        """Return whose job it is."""

    @property
    def steps(self) -> int:
        """Return how many steps the job has."""

    @property
    def taken(self) -> int:
        """Return how many steps are done."""

    @property
    def load(self) -> float:
        """Return the load of one step: rows x pixels, in millions."""

    def __hash__(self) -> int: ...


J = TypeVar("J", bound=TurnJob)


class Turns(Generic[J]):
    """Jobs that wait for a turn, and jobs that run.

    The load of the running jobs is about `capacity`. One job runs at a time while `capacity` is
    None, which means unknown.
    """

    def __init__(self, capacity: float | None = None) -> None:
        self.capacity = capacity
        self._waiting: FairQueue[J] = FairQueue()
        # Ahead of all waiting jobs: these lost their turn when the engine was lost.
        self._restarted: deque[J] = deque()
        self._suspects: deque[J] = deque()
        self._running: dict[J, None] = {}

    @property
    def running(self) -> list[J]:
        """Return the jobs that have a turn."""
        return list(self._running)

    @property
    def waiting(self) -> int:
        """Return how many jobs wait."""
        return len(self._waiting) + len(self._suspects) + len(self._restarted)

    def waiting_of(self, member: Hashable) -> int:
        """Return how many jobs of a member wait, without restarted jobs."""
        return self._waiting.waiting_of(member)

    def waiting_in(self, group: Hashable) -> int:
        """Return how many jobs of a group wait, without restarted jobs."""
        return self._waiting.waiting_in(group)

    def is_running(self, job: J) -> bool:
        """Return whether the job has a turn."""
        return job in self._running

    def unordered(self) -> Iterator[J]:
        """Yield the waiting jobs, in no order."""
        yield from self._suspects
        yield from self._restarted
        yield from self._waiting.jobs

    def ordered(self) -> Iterator[J]:
        """Yield the waiting jobs, the next one first, as if no other job came."""
        yield from self._suspects
        yield from self._restarted
        yield from self._waiting

    def add(self, job: J) -> None:
        """Add a job that waits; its member is charged for the steps of one turn at most."""
        steps = min(job.steps - job.taken, turn_steps(job.load, self.capacity))
        self._waiting.add(job, job.share, steps * job.load)

    def start(self) -> J | None:
        """Start the next job and return it; None if no job waits or no capacity is left."""
        job = self._next()
        if job is not None:
            self._running[job] = None
            job.turn_ends = job.taken + turn_steps(job.load, self.capacity)
        return job

    def _next(self) -> J | None:
        if self._suspects:
            # Alone, so that the cause is known if the engine is lost again.
            return None if self._running else self._suspects.popleft()
        if self._running and not self._has_capacity():
            return None
        if self._restarted:
            return self._restarted.popleft()
        return self._waiting.pop() if len(self._waiting) else None

    def _has_capacity(self) -> bool:
        if self.capacity is None or any(job.alone for job in self._running):
            return False
        return sum(job.load for job in self._running) < self.capacity

    def end_turn(self, job: J) -> bool:
        """Return whether a job's turn ended: its steps are used up and another job waits."""
        is_over = job.turn_ends <= job.taken < job.steps
        # No job may run beside a suspect, so a suspect keeps the engine until it is done.
        if not is_over or job.alone or not self.waiting:
            return False
        del self._running[job]
        self.add(job)
        return True

    def restart(self, job: J, *, alone: bool) -> None:
        """Put a job ahead of all waiting jobs; with `alone` no other job runs beside it."""
        self.remove(job)
        job.alone = alone
        (self._suspects if alone else self._restarted).append(job)

    def remove(self, job: J) -> None:
        """Remove a job, whether it waits or runs."""
        self._running.pop(job, None)
        if job in self._waiting.jobs:
            self._waiting.remove(job)
        for ahead in (self._suspects, self._restarted):
            if job in ahead:
                ahead.remove(job)

    def clear(self) -> list[J]:
        """Remove all jobs, and return them."""
        jobs = [*self.unordered(), *self._running]
        for job in jobs:
            self.remove(job)
        return jobs
