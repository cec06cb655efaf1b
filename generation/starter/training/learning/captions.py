"""Captions that people may type for a scene, drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from ..drawings.drawing import Album
from ..drawings.scenes import HeldOut, Scene, Size, begins_as_pair, draw_scene
from ..drawings.things import Thing
from .networks import TOKENS, WORDS

_KEYWORDS: Final = 0.2
_STYLES: Final = 0.5
_COLOURS: Final = 0.6
_ARTICLES: Final = 0.6
_SIZES_NAMED: Final = 0.85
_JOINTS: Final = ("next to", "and", "beside", "with")
_SIZE_WORDS: Final[Mapping[Size, tuple[str, ...]]] = {
    "tiny": ("tiny", "small", "little"),
    "huge": ("huge", "big", "large"),
}
# As many scenes as are ever encoded; of those that are only told there may be any number.
_KEPT: Final = 250_000
# Of the longest pairs of names one caption in three is short enough.
_TRIES: Final = 20
# One scene in seven shows two things; of a few scenes none may.
_PAIR_TRIES: Final = 50
_ON_COLOUR: Final = (" on a {} background", ", {} background", " on {}")
_IN_STYLE: Final = (" in {} style", ", {} style")


@dataclass(frozen=True, slots=True)
class Said:
    """A caption, and what it says about its scene; None for what it leaves open.

    A caption names all things of its scene, each by its name or by a keyword (`by_keyword`). An
    empty caption names none.
    """

    text: str
    things: tuple[int, ...] = ()
    style: str | None = None
    colour: str | None = None
    size: Size | None = None
    by_keyword: tuple[int, ...] = ()


def describe(
    scene: Scene, things: Sequence[Thing], held: HeldOut, random: np.random.Generator
) -> Said:
    """Return a caption of `scene`: names or keywords, and perhaps size, colour and style."""

    def pick(texts: Sequence[str]) -> str:
        return texts[int(random.integers(len(texts)))]

    parts = []
    for subject in scene.subjects:
        name = _name(things[subject.thing], held.keyword_styles[subject.thing], scene, random, pick)
        parts.append(name)
    places = tuple(subject.thing for subject in scene.subjects)
    named = zip(places, parts, strict=True)
    said = Said(
        "", places, by_keyword=tuple(place for place, part in named if part != things[place].name)
    )
    if len(parts) == 1 and scene.size in _SIZE_WORDS and random.random() < _SIZES_NAMED:
        parts = [f"{pick(_SIZE_WORDS[scene.size])} {parts[0]}"]
        said = replace(said, size=scene.size)
    with_articles = random.random() < _ARTICLES
    joint = f" {pick(_JOINTS)} "
    bare = joint.join([parts[0], *map(with_article, parts[1:])] if with_articles else parts)
    text = with_article(bare) if with_articles else bare
    colour = ""
    if random.random() < _COLOURS:
        colour = pick(_ON_COLOUR).format(scene.colour)
        said = replace(said, colour=scene.colour)
    if random.random() >= _STYLES:
        return replace(said, text=text + colour)
    said = replace(said, style=scene.style)
    place = int(random.integers(3))
    if place == 0:
        return replace(said, text=f"{scene.style} style {bare}{colour}")
    style = pick(_IN_STYLE).format(scene.style)
    return replace(said, text=text + style + colour if place == 1 else text + colour + style)


class Captioner:
    """Captions of the scenes of `seed` by number, and their tokens."""

    def __init__(self, album: Album, held: HeldOut, tokenizer: Any, seed: int) -> None:
        self._album, self._held, self._tokenizer, self._seed = album, held, tokenizer, seed
        self._scenes: dict[int, Scene] = {}
        self._lengths: dict[str, int] = {}

    def scene(self, number: int) -> Scene:
        """Return scene `number`."""
        found = self._scenes.get(number)
        if found is None:
            found = draw_scene(self._album, self._held, self._seed, number)
            if len(self._scenes) < _KEPT:
                self._scenes[number] = found
        return found

    def draw(
        self, scenes: int, random: np.random.Generator, count: int, *, pairs: float
    ) -> list[int]:
        """Return the numbers of `count` of the first `scenes` scenes.

        The share `pairs` of them are scenes with two things, in addition to those by chance.
        """
        numbers = []
        for _ in range(count):
            wants_pair = random.random() < pairs
            number = int(random.integers(scenes))
            for _ in range(_PAIR_TRIES * wants_pair):
                if begins_as_pair(self._seed, number) and len(self.scene(number).subjects) > 1:
                    break
                number = int(random.integers(scenes))
            numbers.append(number)
        return numbers

    def _describe(self, number: int, random: np.random.Generator) -> Said:
        """Return a caption of scene `number` that is short enough for the text encoder."""
        for _ in range(_TRIES):
            said = describe(self.scene(number), self._album.things, self._held, random)
            if self._length(said.text) <= WORDS:
                break
        return said

    def _length(self, text: str) -> int:
        """Return the number of tokens of `text`, with the start and the end token.

        No token spans a space, so the tokens of a word are counted only once and cached.
        """
        total = 2
        for word in text.split():
            if word not in self._lengths:
                self._lengths[word] = len(self._tokenizer(word).input_ids) - 2
            total += self._lengths[word]
        return total

    def describe(
        self, numbers: Sequence[int], random: np.random.Generator, *, empty: float = 0.0
    ) -> list[Said]:
        """Return a caption of each scene; the share `empty` of them is empty.

        A caption of more than `WORDS` tokens is replaced by a shorter one, if there is one.
        """
        return [
            Said("") if empty and random.random() < empty else self._describe(number, random)
            for number in numbers
        ]

    def renamed(self, said: Said, random: np.random.Generator) -> Said | None:
        """Return `said` with a keyword of its thing instead of the name, in any style.

        The result is None unless `said` is about one thing with keywords, called by its name, and
        the new caption is short enough for the text encoder.
        """
        if len(said.things) != 1 or said.by_keyword:
            return None
        thing = self._album.things[said.things[0]]
        if not thing.keywords:
            return None
        keyword = thing.keywords[int(random.integers(len(thing.keywords)))]
        before, _, after = said.text.partition(thing.name)
        if said.text.startswith(with_article(thing.name)):
            before = with_article(keyword).removesuffix(keyword)
        text = before + keyword + after
        if self._length(text) > WORDS:
            return None
        return replace(said, text=text, by_keyword=said.things)

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the token ids of `texts`, [n, tokens], at most the first `WORDS` of each."""
        if not texts:
            return torch.empty(0, TOKENS, dtype=torch.long)
        ids: torch.Tensor = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=WORDS,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        rest = ids.new_full((len(ids), TOKENS - WORDS), self._tokenizer.pad_token_id)
        return torch.cat([ids, rest], 1)


def _name(
    thing: Thing,
    held_style: str,
    scene: Scene,
    random: np.random.Generator,
    pick: Callable[[Sequence[str]], str],
) -> str:
    may_use = bool(thing.keywords) and scene.style != held_style
    return pick(thing.keywords) if may_use and random.random() < _KEYWORDS else thing.name


def with_article(name: str) -> str:
    """Return `name` with `a` or `an` before it."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
