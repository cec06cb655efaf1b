"""Sketches: what the text encoder says of a caption after its words, for the UNet to look at.

The last tokens of a text are one with what the caption says besides its things (the marks), and
for each style 16 with a sketch, the picture's patches row by row. A patch holds the thing in a
style that the caption may mean, then the number of its place, and the marks again. Each sketch has
tokens of its own, so that the UNet can choose by what it looks at; where a style is said, all
sketches show that one. Causal attention lets these tokens see all words, and a UNet's cross
attention reads them as it reads words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from ..drawings.drawing import Album
from ..drawings.scenes import CENTRES, COLOURS, SIZES, HeldOut, Scene, Size, Subject
from ..drawings.things import STYLES
from .captions import Said
from .latents import encoded, poses
from .networks import PATCHES, TOKENS, WORDS

_SIDE: Final = int(PATCHES**0.5)
# On both, so that where it is seen through is known as well: a ghost on white is hardly there.
_GROUNDS: Final = ("white", "black")
_LEFT, _RIGHT = CENTRES[2]
# How a thing is drawn for a caption: its size, and where its middle is.
FORMS: Final[Mapping[str, tuple[Size, float]]] = {
    "usual": ("usual", 0.5),
    "tiny": ("tiny", 0.5),
    "huge": ("huge", 0.5),
    "left": ("half", _LEFT),
    "right": ("half", _RIGHT),
}
_PLACES: Final = {form: place for place, form in enumerate(FORMS)}
# The marks: that this is their token; red, green and blue, and that they are said; three sizes; the
# style, of a sketch or of all.
_MARKS: Final = 8 + len(STYLES)
_SIZES: Final = ("tiny", "huge", "half")
_STYLE_MARKS: Final = {style: 8 + place for place, style in enumerate(STYLES)}
# Numbers of patches and marks beside sketches, of which one is 1 in the mean square.
LOUD: Final = 2.5


def draw_forms(
    autoencoder: Any,
    album: Album,
    report: Callable[[str], None] = lambda _: None,
    workers: int = 0,
) -> torch.Tensor:
    """Return the latents of every picture in each of `FORMS`, on white and on black, as float16.

    Their shape is [pictures, forms, 2, c, h, w], the pictures in the order of `poses`.
    """
    found = []
    for name, (size, x) in FORMS.items():
        extent = sum(SIZES[size]) / 2
        for ground in _GROUNDS:
            scenes = [
                Scene((Subject(thing, extent=extent, x=x),), style, ground, size)
                for thing, style in poses(album)
            ]
            numbers = range(len(scenes))
            parts = encoded(autoencoder, album, scenes.__getitem__, numbers, workers)
            found.append(torch.cat(list(parts)))
        report(name)
    latents = torch.stack(found, 1)
    return latents.view(len(latents), len(FORMS), len(_GROUNDS), *latents.shape[2:])


def sketch_at(place: int) -> slice:
    """Return which tokens of a text are sketch number `place`."""
    start = WORDS + 1 + place * PATCHES
    return slice(start, start + PATCHES)


def patch_codes(forms: torch.Tensor, count: int) -> torch.Tensor:
    """Return the first `count` principal components of each patch of latents from `draw_forms`.

    Their shape is [pictures, forms, 16, count]. Each is divided by the root of its spread,
    halfway to whitening, so that fine differences count beside size and colour.
    """
    pictures, kinds, grounds, channels, height, width = forms.shape
    grid = forms.float().view(
        *(pictures, kinds, grounds, channels),
        *(_SIDE, height // _SIDE, _SIDE, width // _SIDE),
    )
    patches = grid.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(pictures, kinds, PATCHES, -1)
    centred = patches - patches.mean((0, 1, 2))
    flat = centred.flatten(0, 2).double()
    spreads, axes = torch.linalg.eigh(flat.T @ flat / len(flat))
    spreads, axes = spreads.flip(0)[:count].clamp(min=1e-8), axes.flip(1)[:, :count]
    codes = centred @ (pointed(axes) / spreads**0.25).float()
    scaled: torch.Tensor = codes / codes.std()
    return scaled


def pointed(axes: torch.Tensor) -> torch.Tensor:
    """Return the columns of `axes`, each with its largest number above zero.

    Which way a principal axis points is chance, and is another on another number of threads.
    """
    return axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()


class Sketches:
    """What the text encoder is to say of captions of the things of `album`.

    `forms` are the latents from `draw_forms`, `width` that of a token. What is held out is never
    sketched: its numbers are NaN, for whatever the text encoder says there. A thing that has no
    picture in a style at all is sketched in its other one.
    """

    def __init__(self, album: Album, held: HeldOut, forms: torch.Tensor, width: int) -> None:
        self._album, self._held = album, held
        self._places = {pose: place for place, pose in enumerate(poses(album))}
        self.components = (width - PATCHES - _MARKS) // len(STYLES)
        self.codes = patch_codes(forms, self.components)
        self._untold = torch.full((PATCHES, self.components), torch.nan)
        self._held_pictures = torch.tensor(
            [held.styles.get(thing) == style for thing, style in poses(album)]
        )
        # Where in a token the numbers of patches and the marks begin.
        self.numbers = self.components * len(STYLES)
        self._marks = self.numbers + PATCHES
        self._silent = torch.zeros(TOKENS, width)
        for place in range(len(STYLES)):
            self._silent[sketch_at(place), self.numbers : self._marks] = LOUD * torch.eye(PATCHES)
        self._silent[WORDS, self._marks] = LOUD

    def tokens(self, said: Said) -> torch.Tensor:
        """Return the tokens for a caption, [tokens, width].

        Those of its words are zero, and what may not be told is NaN.
        """
        tokens = self._silent.clone()
        if not said.things:
            return tokens
        marks = tokens[WORDS:, self._marks :]
        # On every patch as well: what decides all of the picture need not be looked for elsewhere.
        if said.colour is not None:
            marks[:, 1:4] = LOUD * (torch.tensor(COLOURS[said.colour]) / 127.5 - 1)
            marks[:, 4] = LOUD
        size = "half" if len(said.things) > 1 else said.size
        for place, name in enumerate(_SIZES, 5):
            marks[:, place] = LOUD * (size == name)
        for place, style in enumerate(STYLES):
            rows, start = sketch_at(place), place * self.components
            shown = said.style or style
            tokens[rows, start : start + self.components] = self._sketch(said, shown)
            tokens[rows, self._marks + _STYLE_MARKS[shown]] = LOUD
            if said.style == style:
                tokens[WORDS, self._marks + _STYLE_MARKS[style]] = LOUD
        return tokens

    def _sketch(self, said: Said, style: str) -> torch.Tensor:
        """Return the patches [16, components] of what is said, in `style` where it may be."""
        if len(said.things) == 1:
            return self._code(said, said.things[0], style, said.size or "usual")
        left, right = (
            self._code(said, thing, style, form).view(_SIDE, _SIDE, -1)
            for thing, form in zip(said.things, ("left", "right"), strict=True)
        )
        return torch.cat([left[:, : _SIDE // 2], right[:, _SIDE // 2 :]], 1).flatten(0, 1)

    def _code(self, said: Said, thing: int, style: str, form: str) -> torch.Tensor:
        if style in self._held_of(said, thing):
            return self._untold
        return self.codes[self.place(said, thing, style), _PLACES[form]]

    def place(self, said: Said, thing: int, style: str) -> int:
        """Return where the picture of `thing` in `style` is, or in another that may be said."""
        allowed = self.allowed(said, thing)
        return self._places[thing, style if style in allowed else allowed[0]]

    def allowed(self, said: Said, thing: int) -> list[str]:
        """Return in which styles `said` may speak of `thing`."""
        held = self._held_of(said, thing)
        return [style for style in self._album.things[thing].styles if style not in held]

    def untold(self, said: Said) -> torch.Tensor:
        """Return which pictures `said` may not be about nor be told from, [pictures]."""
        found = self._held_pictures.clone()
        for thing in said.things:
            for style in self._held_of(said, thing):
                if (place := self._places.get((thing, style))) is not None:
                    found[place] = True
        return found

    def _held_of(self, said: Said, thing: int) -> frozenset[str]:
        return self._held.styles_of(thing, by_keyword=thing in said.by_keyword)
