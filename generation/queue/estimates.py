"""When pictures will be ready: the queue simulated with measured step times."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..timing import Measured, Sizes
from .turns import turn_steps

# The weight of a new step in the moving average.
_STEP_WEIGHT: Final = 0.05
# A step that is more than this factor off was held up by something else.
_RATIO_LIMIT: Final = 20.0
# A job is simulated in at most so many turns. Some jobs have hundreds of turns, which would not
# change the estimates of the other jobs.
_TURN_LIMIT: Final = 8


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The work left in a job: steps of `load` each, and images of `pixels` each to decode.

    `load` (rows x pixels) and `pixels` are in millions. `turn` is how many steps are left of the
    job's current turn; None if the job waits.
    """

    steps: int
    load: float
    images: int
    pixels: float
    turn: int | None = None


class TimingModel:
    """Predicts the seconds of steps and of decoding, and learns from the steps that were taken."""

    def __init__(self, measured: Measured) -> None:
        self._pixels = measured.pixels / 1e6
        self._steps = Sizes(measured.step_seconds)
        self._decoding = Sizes(measured.decode_seconds)
        self._correction = 1.0
        self.capacity = measured.rows * self._pixels

    @property
    def pace(self) -> float:
        """Return the seconds of a full call for each unit of its load."""
        return self.step(self.capacity) / self.capacity

    def step(self, load: float) -> float:
        """Return how many seconds a step of `load` takes."""
        return self._correction * self._predicted(load)

    def decode(self, work: RemainingWork) -> float:
        """Return how many seconds the decoding of a job's pictures takes."""
        larger = work.pixels / self._pixels
        return self._correction * larger * self._decoding.time(work.images)

    def observe(self, load: float, seconds: float) -> None:
        """Learn that a step of `load` took `seconds`."""
        ratio = min(max(seconds / self._predicted(load), 1 / _RATIO_LIMIT), _RATIO_LIMIT)
        self._correction += _STEP_WEIGHT * (ratio - self._correction)

    def _predicted(self, load: float) -> float:
        rows = load / self._pixels
        if rows <= self._steps.most:
            return self._steps.time(max(1, math.ceil(rows)))
        return rows * min(seconds / size for size, seconds in self._steps.seconds.items())


def finish_times(
    running: Sequence[RemainingWork], waiting: Sequence[RemainingWork], timing: TimingModel
) -> list[float]:
    """Return in how many seconds each job is done: first the running jobs, then the waiting ones.

    The running jobs share each step. A waiting job starts as soon as there is capacity. A job that
    is not done at the end of its turn waits behind all others for its next turn.
    """
    simulation = _Simulation([*running, *waiting], timing)
    for number in range(len(running)):
        simulation.start(number)
    simulation.line.extend(range(len(running), len(simulation.works)))
    return simulation.run()


class _Simulation:
    """Simulates the turns of jobs, which are known by their numbers; `line` holds waiting jobs.

    The simulation counts steps, and jumps from the end of one turn to the end of the next. So a
    turn is cheap to simulate, however many jobs run. This matters on the event loop.
    """

    def __init__(self, works: Sequence[RemainingWork], timing: TimingModel) -> None:
        self.works = works
        self.line: deque[int] = deque()
        self._timing = timing
        self._left = [work.steps for work in works]
        self._loads: dict[int, float] = {}
        self._ends: list[tuple[int, int]] = []
        self._steps = 0
        # A cache: there are few different loads, and a prediction is not cheap.
        self._seconds: dict[float, float] = {}

    def start(self, number: int) -> None:
        """Start a job's next turn, or continue its current turn."""
        work, left = self.works[number], self._left[number]
        turn = work.turn if left == work.steps else None
        if turn is None:
            turn = max(turn_steps(work.load, self._timing.capacity), -(-work.steps // _TURN_LIMIT))
        steps = min(left, max(1, turn))
        self._left[number] -= steps
        self._loads[number] = work.load
        heapq.heappush(self._ends, (self._steps + steps, number))

    def run(self) -> list[float]:
        """Return when each job is done."""
        done = [0.0] * len(self.works)
        now = 0.0
        while self._ends or self.line:
            load = self._admit()
            now += self._until_next_end() * self._step(load)
            while self._ends and self._ends[0][0] == self._steps:
                _, number = heapq.heappop(self._ends)
                if not self._left[number]:
                    now += self._timing.decode(self.works[number])
                    done[number] = now
                    del self._loads[number]
                elif self.line:
                    self.line.append(number)
                    del self._loads[number]
                else:
                    # No job waits, so this one continues.
                    self.start(number)
        return done

    def _admit(self) -> float:
        """Start waiting jobs while there is capacity; return the load of all running jobs."""
        load = sum(self._loads.values())
        while self.line and (not self._loads or load < self._timing.capacity):
            number = self.line.popleft()
            self.start(number)
            load += self.works[number].load
        return load

    def _until_next_end(self) -> int:
        steps = self._ends[0][0] - self._steps
        self._steps += steps
        return steps

    def _step(self, load: float) -> float:
        if load not in self._seconds:
            self._seconds[load] = self._timing.step(load)
        return self._seconds[load]
