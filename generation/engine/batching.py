"""Which images share a UNet call, and how many rows the call has.

The UNet takes a timestep per sample, so images at different steps of different schedules
can share one call; what has to agree is the latent shape and the text length.

A call has one of a few fixed numbers of rows, and what is missing is filled up. So pixels do
not depend on how many others happen to be there, and a graph that was compiled for a size is
used again. Which sizes there are is measured (`generation.engine.calibration`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..timing import Sizes


class Batchable(Protocol):
    """What the planner needs to know of an image on its way."""

    @property
    def batch_key(self) -> Hashable:
        """Return what has to agree within one UNet call."""

    @property
    def rows(self) -> int:
        """Return how many rows the image adds: 2 under guidance, else 1."""


B = TypeVar("B", bound=Batchable)


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
