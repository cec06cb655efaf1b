"""Which images share a UNet call.

The UNet takes a timestep per sample, so images at different steps of different schedules
can share one call; what has to agree is the latent shape and the text length.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Protocol, TypeVar


class Batchable(Protocol):
    """What the planner needs to know of an image on its way."""

    @property
    def batch_key(self) -> Hashable:
        """Return what has to agree within one UNet call."""


B = TypeVar("B", bound=Batchable)


def plan(images: Iterable[B], *, most: int) -> Iterator[list[B]]:
    """Yield groups of at most `most` images that may share a UNet call, in their order."""
    groups: dict[Hashable, list[B]] = {}
    for image in images:
        group = groups.setdefault(image.batch_key, [])
        group.append(image)
        if len(group) == most:
            yield groups.pop(image.batch_key)
    yield from groups.values()
