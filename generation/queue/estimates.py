"""When pictures will be there: the queue played forward with measured step times."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..timing import Measured, Sizes
from .turns import turn_steps

# How much a single step counts against all that was seen before.
_NEWS: Final = 0.05
# What a step takes beside the others' decoding and garbage collection is never this far off.
_OFF: Final = 20.0
# Turns of which a job is played forward. Some may take hundreds, and those who wait would not
# be told anything else by them.
_TURNS: Final = 8


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


def finish_times(running: Sequence[Work], waiting: Sequence[Work], pace: Pace) -> list[float]:
    """Return in how many seconds each job is done, those that run first and then the waiting.

    The jobs that run share each step; a waiting one joins as soon as there is room. Who is not
    done by the end of a turn waits behind all others for the next.
    """
    forecast = _Forecast([*running, *waiting], pace)
    for number in range(len(running)):
        forecast.start(number)
    forecast.line.extend(range(len(running), len(forecast.works)))
    return forecast.play()


class _Forecast:
    """The turns of jobs, which have their numbers, played forward; `line` are those that wait.

    It counts the steps that anybody takes, and by that count it knows when each turn ends: a
    turn costs little to play, whatever runs beside it. For it is played on the event loop.
    """

    def __init__(self, works: Sequence[Work], pace: Pace) -> None:
        self.works = works
        self.line: deque[int] = deque()
        self._pace = pace
        self._left = [work.steps for work in works]
        self._loads: dict[int, float] = {}
        self._ends: list[tuple[int, int]] = []
        self._steps = 0
        # One for each load: there are few, and to predict what one takes is not so cheap.
        self._seconds: dict[float, float] = {}

    def start(self, number: int) -> None:
        """Give a job its turn, or what is left of the one that it has."""
        work, left = self.works[number], self._left[number]
        turn = work.turn if left == work.steps else None
        if turn is None:
            turn = max(turn_steps(work.load, self._pace.capacity), -(-work.steps // _TURNS))
        steps = min(left, max(1, turn))
        self._left[number] -= steps
        self._loads[number] = work.load
        heapq.heappush(self._ends, (self._steps + steps, number))

    def play(self) -> list[float]:
        """Return when each job is done."""
        done = [0.0] * len(self.works)
        now = 0.0
        while self._ends or self.line:
            load = self._admit()
            now += self._until_next_end() * self._step(load)
            while self._ends and self._ends[0][0] == self._steps:
                _, number = heapq.heappop(self._ends)
                if not self._left[number]:
                    now += self._pace.decode(self.works[number])
                    done[number] = now
                    del self._loads[number]
                elif self.line:
                    self.line.append(number)
                    del self._loads[number]
                else:
                    # Nobody waits, so it keeps its place.
                    self.start(number)
        return done

    def _admit(self) -> float:
        """Let those who wait join while there is room; return the load of all that run."""
        load = sum(self._loads.values())
        while self.line and (not self._loads or load < self._pace.capacity):
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
            self._seconds[load] = self._pace.step(load)
        return self._seconds[load]
