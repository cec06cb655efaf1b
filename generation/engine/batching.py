"""Which images share a call of the network, and how many rows the call has.

The network takes a timestep for each row, so images at different steps of different schedules can
share one call. Only their batch keys have to agree.

A call has one of a few fixed numbers of rows; missing rows are filled up. So pixels do not depend
on the number of other images, and a graph that was compiled for a size is used again. The sizes are
measured (`generation.engine.calibration`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..timing import Sizes


class Batchable(Protocol):
    """What the planner needs of an image."""

    @property
    def batch_key(self) -> Hashable:
        """Return what has to agree within one call."""

    @property
    def rows(self) -> int:
        """Return how many rows the image adds: 2 with guidance, else 1."""


B = TypeVar("B", bound=Batchable)


@dataclass(frozen=True, slots=True)
class Batch(Generic[B]):
    """Images that share one call of `size` rows; the rows that they do not need are filled up."""

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
    """Yield batches for images of one key. Images of two rows come first: one row fits anywhere."""
    waiting = sorted(group, key=lambda image: image.rows, reverse=True)
    for size in sizes.split(sum(image.rows for image in group)):
        room = itertools.accumulate(image.rows for image in waiting)
        count = sum(taken <= size for taken in room)
        yield Batch(tuple(waiting[:count]), size)
        del waiting[:count]
