"""What steps and decoding take on the device at hand: plain numbers, measured by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

# The share of the best rate of rows that is good enough: beyond it, all only wait for longer.
_PAYS: Final = 0.85
# Four pictures with guidance.
_SHARED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The seconds of calls for pictures of `pixels` pixels, by the number of rows or pictures.

    There is every number that fits the memory and the time for one call, whether it pays or not.
    """

    pixels: int
    step_seconds: Mapping[int, float]
    decode_seconds: Mapping[int, float]

    @property
    def rows(self) -> int:
        """Return for how many rows of that size jobs are taken up to share their steps.

        It is the least number that brings nearly as many rows a second as the best one: more
        would not be done sooner, and all would wait longer for a step. But it is eight, or what
        fits below that, if fewer look as good. The numbers are measured once, while the model
        is loaded, and on a busy machine one bad measurement could make all people queue for an
        engine of one row until the next start. To share steps in vain costs little by comparison.
        """
        rates = {rows: rows / seconds for rows, seconds in self.step_seconds.items()}
        paying = min(rows for rows, rate in rates.items() if rate >= _PAYS * max(rates.values()))
        return max(paying, max((rows for rows in rates if rows <= _SHARED), default=paying))


# How much one call counts against all before, and what difference is none.
_NEWS: Final = 0.1
_SAME: Final = 0.005


@dataclass(frozen=True)
class Sizes:
    """The numbers of rows that a call may have, each with the seconds that such a call takes.

    All but 1 are even, so that an image of two rows fits wherever there is room for it.
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
        """Return the sizes of the calls that take `rows` rows soonest, largest first.

        A call of 1 is for the last row of an odd number, or where there is no other size.
        """
        while len(self._plans) <= rows:
            self._plans.append(self._best(len(self._plans)))
        return self._plans[rows][1]

    def time(self, rows: int) -> float:
        """Return how many seconds `rows` rows take."""
        self.split(rows)
        return self._plans[rows][0]

    def corrected(self, size: int, seconds: float) -> Sizes:
        """Return these sizes with what a call of `size` really took counted in."""
        if size not in self.seconds:
            return self
        before = self.seconds[size]
        now = before + _NEWS * (seconds - before)
        if abs(now - before) < _SAME * before:
            return self
        return Sizes({**self.seconds, size: now})

    @cached_property
    def _plans(self) -> list[tuple[float, tuple[int, ...]]]:
        """The time and the calls for 0, 1, 2, ... rows, as far as they were asked for."""
        return [(0.0, ())]

    def _best(self, rows: int) -> tuple[float, tuple[int, ...]]:
        """Return the best plan for `rows` from those for fewer: a change-making problem."""
        plans = []
        larger = sorted(size for size in self.seconds if size > 1)
        alone = 1 in self.seconds and (rows == 1 or not larger)
        for size in [1] if alone else larger:
            time, rest = self._plans[max(0, rows - size)]
            plans.append((self._at_most(size) + time, tuple(sorted((size, *rest), reverse=True))))
        return min(plans)

    def _at_most(self, size: int) -> float:
        """Return the seconds of a call of `size`, or of a larger one that took no longer.

        Whatever was measured while the machine was busy, fewer rows are not slower. Otherwise
        one slow call would have the rows filled up to a larger size from then on, and as the
        size itself would never be called again, nothing would correct it.
        """
        return min(time for rows, time in self.seconds.items() if rows >= size)
