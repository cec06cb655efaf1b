"""Which images share a UNet call, and how many rows the call has.

The UNet takes a timestep per sample, so images at different steps of different schedules
can share one call; what has to agree is the latent shape and the text length.

A call has one of a few fixed numbers of rows, and what is missing is filled up. So pixels do
not depend on how many others happen to be there, and a graph that was compiled for a size is
used again. Which sizes there are is measured (`generation.fitting`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Generic, Protocol, TypeVar

# How much one call counts against all before, and what difference is none.
_NEWS: Final = 0.1
_SAME: Final = 0.005


class Batchable(Protocol):
    """What the planner needs to know of an image on its way."""

    @property
    def batch_key(self) -> Hashable:
        """Return what has to agree within one UNet call."""

    @property
    def rows(self) -> int:
        """Return how many rows the image adds: 2 under guidance, else 1."""


B = TypeVar("B", bound=Batchable)


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


@dataclass(frozen=True, slots=True)
class Batch(Generic[B]):
    """Images that share one call of `size` rows; the rows that they do not need are filled."""

    images: tuple[B, ...]
    size: int


def plan(images: Iterable[B], sizes: Callable[[B], Sizes]) -> Iterator[Batch[B]]:
    """Yield the calls by which all `images` take one step.

    `sizes` returns the sizes for images like the one given. Every image is in one batch.
    """
    groups: dict[Hashable, list[B]] = {}
    for image in images:
        groups.setdefault(image.batch_key, []).append(image)
    for group in groups.values():
        yield from _fill(group, sizes(group[0]))


def _fill(group: list[B], sizes: Sizes) -> Iterator[Batch[B]]:
    """Yield batches for images of one key, those of two rows first: one row fits anywhere."""
    waiting = sorted(group, key=lambda image: image.rows, reverse=True)
    for size in sizes.split(sum(image.rows for image in group)):
        room = itertools.accumulate(image.rows for image in waiting)
        count = sum(taken <= size for taken in room)
        yield Batch(tuple(waiting[:count]), size)
        del waiting[:count]
