"""When pictures will be there: the queue played forward with measured step times."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from .batching import Sizes
from .pace import Measured
from .schedule import Line, Schedulable, turn_steps

J = TypeVar("J", bound=Schedulable)

# How much a single step counts against all that was seen before.
_NEWS: Final = 0.05
# What a step takes beside the others' decoding and garbage collection is never this far off.
_OFF: Final = 20.0
# Turns of which a job is played forward. Some may take hundreds, and those who wait would not
# be told anything else by them.
_TURNS: Final = 8
# And fewer turns, of more steps each, where many wait.
_PLAYED: Final = 4_000


@dataclass(frozen=True, slots=True)
class Work:
    """What a job still takes: steps of `load` each, and images of `pixels` to be decoded.

    Both are in millions; a load is rows x pixels. `turn` are the steps that are left of the turn
    that the job has now, if it has one.
    """

    steps: int
    load: float
    images: int
    pixels: float
    turn: int | None = None


class Pace:
    """Seconds for steps and decoding, from what the engine measured and what steps really took."""

    def __init__(self, measured: Measured) -> None:
        self._pixels = measured.pixels / 1e6
        self._steps = Sizes(measured.step_seconds)
        self._decoding = Sizes(measured.decode_seconds)
        self._correction = 1.0
        self.capacity = measured.rows * self._pixels

    def step(self, load: float) -> float:
        """Return how many seconds a step of `load` takes."""
        return self._correction * self._predicted(load)

    def decode(self, work: Work) -> float:
        """Return how many seconds the pictures of a job take to be decoded."""
        larger = work.pixels / self._pixels
        return self._correction * larger * self._decoding.time(work.images)

    def saw(self, load: float, seconds: float) -> None:
        """Take note that a step of `load` took `seconds`."""
        ratio = min(max(seconds / self._predicted(load), 1 / _OFF), _OFF)
        self._correction += _NEWS * (ratio - self._correction)

    def _predicted(self, load: float) -> float:
        rows = load / self._pixels
        if rows <= self._steps.most:
            return self._steps.time(max(1, math.ceil(rows)))
        return rows * min(seconds / size for size, seconds in self._steps.seconds.items())


@dataclass(frozen=True, slots=True)
class Foretold(Generic[J]):
    """In how many seconds each job is done, and those that wait in the order of their begin."""

    seconds: dict[J, float]
    order: list[J]


def foretell(
    running: Mapping[J, Work], line: Line[J], work: Callable[[J], Work], pace: Pace
) -> Foretold[J]:
    """Return when all jobs are done, those that run and those in `line`, which is used up.

    The jobs that run share each step; a waiting one joins as soon as there is room. Who is not
    done by the end of a turn waits in line for the next. `work` says what a waiting one takes.
    """
    forecast = _Forecast(line, work, pace, most=max(1, _PLAYED // max(1, len(line))))
    for job, left in running.items():
        forecast.start(job, left)
    return forecast.play()


class _Forecast(Generic[J]):
    """Jobs in their turns, played forward.

    It counts the steps that anybody takes, and by that count it knows when each turn ends: a
    turn costs little to play, whatever runs beside it. For it is played on the event loop.
    """

    def __init__(self, line: Line[J], work: Callable[[J], Work], pace: Pace, *, most: int) -> None:
        self._line, self._work_of, self._pace = line, work, pace
        self._turns = min(_TURNS, most)
        self._works: dict[J, Work] = {}
        self._left: dict[J, int] = {}
        self._loads: dict[J, float] = {}
        self._ends: list[tuple[int, int, J]] = []
        # In the order of their begin, for those who end with the same step.
        self._numbers: dict[J, int] = {}
        self._steps = 0
        # One for each load: there are few, and to predict what one takes is not so cheap.
        self._seconds: dict[float, float] = {}

    def start(self, job: J, work: Work) -> None:
        """Give a job its turn, or what is left of the one that it has."""
        self._works[job] = work
        self._numbers[job] = len(self._numbers)
        self._left[job] = work.steps
        self._take_turn(job, self._turn(work) if work.turn is None else work.turn)

    def _turn(self, work: Work) -> int:
        """Return the steps of a whole turn, or more where it would take too many turns."""
        return max(turn_steps(work.load, self._pace.capacity), -(-work.steps // self._turns))

    def _take_turn(self, job: J, steps: int) -> None:
        steps = min(self._left[job], max(1, steps))
        self._left[job] -= steps
        self._loads[job] = self._works[job].load
        heapq.heappush(self._ends, (self._steps + steps, self._numbers[job], job))

    def play(self) -> Foretold[J]:
        """Return when each job is done."""
        found: Foretold[J] = Foretold({}, [])
        now = 0.0
        while self._ends or self._line:
            found.order.extend(self._admit())
            now += self._until_next_end() * self._step()
            while self._ends and self._ends[0][0] == self._steps:
                _, _, job = heapq.heappop(self._ends)
                if not self._left[job]:
                    now += self._pace.decode(self._works[job])
                    found.seconds[job] = now
                    del self._loads[job]
                elif self._line:
                    turn = self._turn(self._works[job])
                    self._line.add(job, min(self._left[job], turn))
                    del self._loads[job]
                else:
                    # Nobody waits, so it keeps its place.
                    self._take_turn(job, self._turn(self._works[job]))
        return found

    def _admit(self) -> list[J]:
        """Let those who wait join while there is room; return those who had not begun."""
        begin = []
        load = sum(self._loads.values())
        while self._line and (not self._loads or load < self._pace.capacity):
            job = self._line.pop()
            if job in self._works:
                self._take_turn(job, self._turn(self._works[job]))
            else:
                self.start(job, self._work_of(job))
                begin.append(job)
            load += self._loads[job]
        return begin

    def _until_next_end(self) -> int:
        steps = self._ends[0][0] - self._steps
        self._steps += steps
        return steps

    def _step(self) -> float:
        """Return how many seconds a step of all that run takes."""
        load = sum(self._loads.values())
        if load not in self._seconds:
            self._seconds[load] = self._pace.step(load)
        return self._seconds[load]
