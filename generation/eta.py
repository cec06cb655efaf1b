"""When pictures will be there: the queue played forward with measured step times."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .batching import Sizes
from .pace import Measured

# How much a single step counts against all that was seen before.
_NEWS: Final = 0.05
# What a step takes beside the others' decoding and garbage collection is never this far off.
_OFF: Final = 20.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a job still takes: steps of `load` each, and images of `pixels` to be decoded.

    Both are in millions; a load is rows x pixels.
    """

    steps: int
    load: float
    images: int
    pixels: float


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
        return self._steps.seconds[self._steps.most] * rows / self._steps.most


def finish_times(running: Sequence[Work], waiting: Sequence[Work], pace: Pace) -> list[float]:
    """Return in how many seconds each job is done, those that run first and then the waiting.

    The jobs that run share each step; a waiting one joins as soon as there is room.
    """
    done = [0.0] * (len(running) + len(waiting))
    left = {number: work.steps for number, work in enumerate(running)}
    works = [*running, *waiting]
    queue = deque(range(len(running), len(works)))
    now = 0.0
    while left or queue:
        load = sum(works[number].load for number in left)
        while queue and (not left or load < pace.capacity):
            number = queue.popleft()
            left[number] = works[number].steps
            load += works[number].load
        together = min(left.values())
        now += together * pace.step(load)
        for number in [number for number, steps in left.items() if steps == together]:
            now += pace.decode(works[number])
            done[number] = now
            del left[number]
        for number in left:
            left[number] -= together
    return done
