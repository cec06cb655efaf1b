"""Stages: each changes a finished picture, or refuses it, before the picture is stored.

An engine gets its stages by constructor, in the order in which they run. The recipe holds the hash
of the pixels that come out of the last stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..values.pixels import Pixels
from ..values.request import GenerationRequest


class Stage(Protocol):
    """One stage, such as a filter or an enlargement."""

    def apply(self, picture: Pixels, request: GenerationRequest) -> Pixels:
        """Return the picture to store; `request` asks for this picture alone.

        The same picture and request always give the same result, or no recipe could be replayed.

        Raises:
            PictureRefused: the picture may not be stored or shown.
        """


def run(stages: Iterable[Stage], picture: Pixels, request: GenerationRequest) -> Pixels:
    """Return `picture` as it comes out of the last of `stages`.

    Raises:
        PictureRefused: a stage refuses the picture; later stages do not see it.
    """
    for stage in stages:
        picture = stage.apply(picture, request)
    return picture
