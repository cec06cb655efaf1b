"""Which jobs run on the engine, and which run next: turns in a fair order.

Jobs start in a fair order until the engine has no capacity left, since a UNet call takes only so
many rows. A turn is so many steps, which is a whole picture at usual settings. After its turn a job
keeps its latents and waits for its next turn, if other jobs wait. So small jobs are not stuck
behind long ones. Pictures of equal length are still finished one after the other, which is sooner
for most people than all at the same time. A job that is larger than the capacity has shorter turns,
because no other job runs beside it.

Loading a model takes as long as many steps, so jobs for the models in memory may go first for a
while. The job whose turn it is by the fair order is passed over for PATIENCE_CALLS at most; then
the running jobs end their turns, and the job has its model loaded.

This module knows no clock, no thread and no event loop, so a simulation can run it through a day.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from .fairness import FairQueue, FlowQueue, Share

TURN_STEPS: Final = 30
# How much work may go ahead of the job whose turn it is, in full calls. Calls take half a second at
# most (`generation.engine.calibration`), so the job waits for two minutes at most. To load a model
# takes seconds to half a minute: with less patience, loading would take a large part of the time of
# an engine with two busy models.
PATIENCE_CALLS: Final = 240
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

    @property
    def model(self) -> Hashable:
        """Return the model that the job needs."""

    def __hash__(self) -> int: ...


J = TypeVar("J", bound=TurnJob)


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """How a model differs from the default one.

    `capacity` is the load of a full call, and `cost` the seconds of a load relative to the default
    model.
    """

    capacity: float
    cost: float = 1.0


class _PassedOver:
    """How many full calls were given to other jobs while one job was first in the fair order."""

    def __init__(self) -> None:
        self._job: weakref.ref[Any] | None = None
        self._calls = 0.0

    def calls_of(self, job: object) -> float:
        """Return the calls by which `job`, which is first now, was passed over."""
        if self._job is None or self._job() is not job:
            self._job, self._calls = weakref.ref(job), 0.0
        return self._calls

    def add(self, job: object, calls: float) -> None:
        """Note that `job` was passed over by so many calls."""
        self._calls = self.calls_of(job) + calls


class Turns(Generic[J]):
    """Jobs that wait for a turn, and jobs that run.

    The load of the running jobs is about `capacity`. One job runs at a time while `capacity` is
    None, which means unknown. `speeds` holds what is known of single models.

    `loaded` holds the models in memory, or None if every model is always there. `beside` holds the
    models that fit in beside those; each of them fits by itself, two of them may not.
    """

    def __init__(self, capacity: float | None = None) -> None:
        self.capacity = capacity
        self.speeds: dict[Hashable, ModelSpeed] = {}
        self.loaded: Collection[Hashable] | None = None
        self.beside: Collection[Hashable] = frozenset()
        self._passed_over = _PassedOver()
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
        self._waiting.add(job, job.share, self._turn(job) * job.load * self._cost(job))

    def start(self) -> J | None:
        """Start the next job and return it; None if no job waits or no capacity is left."""
        job = self._next()
        if job is not None:
            self._running[job] = None
            job.turn_ends = job.taken + turn_steps(job.load, self._capacity(job))
        return job

    def _ready(self) -> Collection[Hashable] | None:
        """Return the models whose jobs may start beside the running jobs; None for all models."""
        if self.loaded is None:
            return None
        coming = {job.model for job in self._running}.difference(self.loaded)
        if not coming:
            return {*self.loaded, *self.beside}
        if len(coming) == 1 and coming.issubset(self.beside):
            # The next model may not fit in beside this one.
            return {*self.loaded, *coming}
        # The engine may have to drop any other model for these.
        return coming

    def _turn(self, job: J) -> int:
        """Return how many steps the next turn of a job has."""
        return min(job.steps - job.taken, turn_steps(job.load, self._capacity(job)))

    def _capacity(self, job: J) -> float | None:
        speed = self.speeds.get(job.model)
        return self.capacity if speed is None else speed.capacity

    def _cost(self, job: J) -> float:
        speed = self.speeds.get(job.model)
        return 1.0 if speed is None else speed.cost

    def _is_ready(self) -> Callable[[J], bool]:
        """Return a function that says whether a job may start beside the running jobs."""
        ready = self._ready()
        return lambda job: ready is None or job.model in ready

    def _next(self) -> J | None:
        if self._suspects:
            # Alone, so that the cause is known if the engine is lost again.
            return None if self._running else self._suspects.popleft()
        if self._running and not self._has_capacity():
            return None
        if self._restarted:
            may_start = not self._running or self._is_ready()(self._restarted[0])
            return self._restarted.popleft() if may_start else None
        return self._next_waiting() if len(self._waiting) else None

    def _next_waiting(self) -> J | None:
        """Remove and return the next job in the fair order, or one for a model in memory."""
        first, is_ready = self._waiting.first(), self._is_ready()
        if is_ready(first):
            return self._waiting.pop()
        if self._passed_over.calls_of(first) < PATIENCE_CALLS:
            other = self._waiting.pop_first(is_ready)
            if other is not None:
                capacity = self._capacity(other) or other.load
                self._passed_over.add(first, self._turn(other) * min(1.0, other.load / capacity))
                return other
        # While a model is loaded no job takes a step, so running jobs end their turns first.
        return None if self._running else self._waiting.pop()

    def _has_capacity(self) -> bool:
        if self.capacity is None or any(job.alone for job in self._running):
            return False
        loads: dict[float, float] = {}
        for job in self._running:
            capacity = self._capacity(job) or self.capacity
            loads[capacity] = loads.get(capacity, 0.0) + job.load
        return sum(load / capacity for capacity, load in loads.items()) < 1

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
