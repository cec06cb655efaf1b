"""How long steps and decoding take on this device: plain numbers, measured by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

# A number of rows is good enough if it reaches this share of the best rate of rows. With more rows,
# all jobs only wait longer.
_GOOD_RATE: Final = 0.85
# Four pictures with guidance.
_SHARED_ROWS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The seconds of calls for pictures of `pixels` pixels, by the number of rows or pictures.

    There is an entry for every number that fits the memory and the time limit of a call, whether
    sharing pays or not.
    """

    pixels: int
    step_seconds: Mapping[int, float]
    decode_seconds: Mapping[int, float]

    @property
    def rows(self) -> int:
        """Return how many rows of that size share a step.

        This is the smallest number that makes nearly as many rows a second as the best number.
        More rows would not be done sooner, and all jobs would wait longer for a step. But the
        result is at least eight, or the largest number below eight that fits. The reason: the
        numbers are measured once, while the model is loaded. On a busy machine, one bad measurement
        could leave the engine with one row until the next start. Sharing steps without a gain costs
        little by comparison.
        """
        rates = {rows: rows / seconds for rows, seconds in self.step_seconds.items()}
        paying = min(
            rows for rows, rate in rates.items() if rate >= _GOOD_RATE * max(rates.values())
        )
        return max(paying, max((rows for rows in rates if rows <= _SHARED_ROWS), default=paying))


# The weight of a new call in the moving average, and the relative change that is ignored.
_CALL_WEIGHT: Final = 0.1
_IGNORED_CHANGE: Final = 0.005


@dataclass(frozen=True)
class Sizes:
    """The numbers of rows that a call may have, each with the seconds of such a call.

    All sizes but 1 are even, so that an image of two rows always fits.
    """

    seconds: Mapping[int, float]

    def __post_init__(self) -> None:
        if not self.seconds or any(size % 2 and size != 1 for size in self.seconds):
            raise ValueError(f"{sorted(self.seconds)} are no sizes of calls")

    @property
    def most(self) -> int:
        """Return the largest size."""
        return max(self.seconds)

    def split(self, rows: int) -> tuple[int, ...]:
        """Return the sizes of the calls that are fastest for `rows` rows, largest first.

        A call of 1 is used for the last row of an odd number, or if there is no other size.
        """
        while len(self._plans) <= rows:
            self._plans.append(self._best(len(self._plans)))
        return self._plans[rows][1]

    def time(self, rows: int) -> float:
        """Return how many seconds `rows` rows take."""
        self.split(rows)
        return self._plans[rows][0]

    def corrected(self, size: int, seconds: float) -> Sizes:
        """Return these sizes, corrected by a call of `size` that took `seconds`."""
        if size not in self.seconds:
            return self
        before = self.seconds[size]
        now = before + _CALL_WEIGHT * (seconds - before)
        if abs(now - before) < _IGNORED_CHANGE * before:
            return self
        return Sizes({**self.seconds, size: now})

    @cached_property
    def _plans(self) -> list[tuple[float, tuple[int, ...]]]:
        """The time and the calls for 0, 1, 2, ... rows; `split` extends the list."""
        return [(0.0, ())]

    def _best(self, rows: int) -> tuple[float, tuple[int, ...]]:
        """Return the best plan for `rows` from the plans for fewer: a change-making problem."""
        plans = []
        larger = sorted(size for size in self.seconds if size > 1)
        alone = 1 in self.seconds and (rows == 1 or not larger)
        for size in [1] if alone else larger:
            time, calls = self._plans[max(0, rows - size)]
            plans.append((self._at_most(size) + time, tuple(sorted((size, *calls), reverse=True))))
        return min(plans)

    def _at_most(self, size: int) -> float:
        """Return the seconds of a call of `size`, or of a larger call that was not slower.

        Fewer rows are never slower, so a slower measurement comes from a busy machine. Without this
        rule, one slow call would make every later call use a larger size. The slow size would never
        be called again, so its number would never be corrected.
        """
        return min(time for rows, time in self.seconds.items() if rows >= size)
