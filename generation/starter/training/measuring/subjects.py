"""What all measures of a starter model share: prompts, painters and figures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np

from ....values.request import GenerationRequest
from ..drawings.drawing import Album, Bytes
from ..drawings.scenes import COLOURS, HeldOut
from ..drawings.sheet import request
from ..learning.captions import with_article
from .recognition import Recogniser

_NAMED_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what its picture has to show; None for what the prompt leaves open."""

    text: str
    things: tuple[int, ...]
    style: str | None = None
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: a share or a number, over `count` cases, and the goal if any."""

    name: str
    value: float
    count: int
    goal: float | None = None

    @property
    def reached(self) -> bool | None:
        """Return whether the goal is reached; None without one."""
        return None if self.goal is None else self.value >= self.goal


class Artist(Protocol):
    """Makes the pictures, which are `edge` pixels wide and high."""

    @property
    def edge(self) -> int:
        """Return the edge of the pictures."""

    def paint(self, requests: Sequence[GenerationRequest]) -> Bytes:
        """Return one picture for each request, [n, edge, edge, 3]."""


@dataclass(frozen=True)
class Subjects:
    """What all measures need: the model, its training pictures, and a recogniser.

    `share` scales the number of cases of every measure.
    """

    painter: Artist
    autoencoder: Any
    album: Album
    held: HeldOut
    recogniser: Recogniser
    guidance: float
    steps: int = 30
    share: float = 1.0

    def cases(self, count: int) -> int:
        """Return how many cases of `count` are measured, at least two."""
        return max(2, round(count * self.share))

    def make(self, texts: Sequence[str], seed: int, **options: Any) -> Bytes:
        """Return a picture of each prompt, the first with `seed`, the next with `seed + 1`."""
        wanted = [self.request(text, seed + k, **options) for k, text in enumerate(texts)]
        return self.painter.paint(wanted)

    def request(self, text: str, seed: int, **options: Any) -> GenerationRequest:
        """Return the request for one picture of `text`."""
        settings = {"steps": self.steps, "guidance": self.guidance} | options
        return request(text, seed, edge=self.painter.edge, **settings)


def share_of(name: str, right: Sequence[bool], goal: float | None = None) -> Figure:
    """Return the share of `right` that is true."""
    return Figure(name, sum(right) / len(right) if right else 0.0, len(right), goal)


def random_prompts(album: Album, held: HeldOut, count: int, seed: int) -> list[Prompt]:
    """Return prompts of different things; half name a style, and half a colour."""
    random = np.random.default_rng([seed, 4])
    places = random.permutation(len(album.things))
    found: list[Prompt] = []
    for place in itertools.islice(itertools.cycle(int(p) for p in places), 10 * count):
        if len(found) == count:
            break
        style = str(random.choice(album.things[place].styles))
        colour = str(random.choice(list(COLOURS)))
        if held.allows(place, style, colour):
            named = replace(
                Prompt("", (place,)),
                style=style if random.random() < _NAMED_SHARE else None,
                colour=colour if random.random() < _NAMED_SHARE else None,
            )
            found.append(replace(named, text=_text(album.things[place].name, named)))
    return found


def _text(name: str, prompt: Prompt) -> str:
    style = f", {prompt.style} style" if prompt.style else ""
    colour = f" on a {prompt.colour} background" if prompt.colour else ""
    return with_article(name) + colour + style
