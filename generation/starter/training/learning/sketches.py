"""Sketches: tokens after the words of a caption, in which the text encoder writes for the UNet.

The last tokens of a text are one token of marks, with all that the caption says besides its things,
and for each style 16 tokens of a sketch, the picture's patches row by row. The token of a patch
holds the thing in that style, then the number of the patch, and the marks again. Each style has its
own tokens, so the UNet can choose what it looks at. If the caption names a style, all sketches show
that style. Causal attention lets these tokens see all words. The UNet's cross attention reads them
like words.
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
# Each picture is encoded on both, which shows where it is transparent: a ghost on white is
# invisible.
_GROUNDS: Final = ("white", "black")
_LEFT, _RIGHT = CENTRES[2]
# The size of a thing in a sketch, and its centre.
FORMS: Final[Mapping[str, tuple[Size, float]]] = {
    "usual": ("usual", 0.5),
    "tiny": ("tiny", 0.5),
    "huge": ("huge", 0.5),
    "left": ("half", _LEFT),
    "right": ("half", _RIGHT),
}
_PLACES: Final = {form: place for place, form in enumerate(FORMS)}
# The marks: a flag of their token; red, green and blue, and a flag that a colour is named; three
# sizes; the style, of a sketch or of all.
_MARKS: Final = 8 + len(STYLES)
_SIZES: Final = ("tiny", "huge", "half")
_STYLE_MARKS: Final = {style: 8 + place for place, style in enumerate(STYLES)}
# The scale of patch numbers and marks. The mean square of a sketch's numbers is 1.
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
    """Return the range of the tokens of sketch number `place` in a text."""
    start = WORDS + 1 + place * PATCHES
    return slice(start, start + PATCHES)


def patch_codes(forms: torch.Tensor, count: int) -> torch.Tensor:
    """Return the first `count` principal components of each patch of latents from `draw_forms`.

    Their shape is [pictures, forms, 16, count]. Each is divided by the square root of its standard
    deviation, halfway to whitening, so that fine differences count beside size and colour.
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

    The sign of a principal axis is arbitrary, and can depend on the number of threads.
    """
    return axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()


class Sketches:
    """The target tokens of captions about the things of `album`.

    `forms` are the latents from `draw_forms`. `width` is the width of a token. Held-out
    combinations are never sketched: their numbers are NaN, which means any output is right. A thing
    without a picture in a style is sketched in its other style.
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
        # The positions in a token where the patch numbers and the marks begin.
        self.numbers = self.components * len(STYLES)
        self._marks = self.numbers + PATCHES
        self._silent = torch.zeros(TOKENS, width)
        for place in range(len(STYLES)):
            self._silent[sketch_at(place), self.numbers : self._marks] = LOUD * torch.eye(PATCHES)
        self._silent[WORDS, self._marks] = LOUD

    def tokens(self, said: Said) -> torch.Tensor:
        """Return the tokens for a caption, [tokens, width].

        The tokens of words are zero, and held-out numbers are NaN.
        """
        tokens = self._silent.clone()
        if not said.things:
            return tokens
        marks = tokens[WORDS:, self._marks :]
        # The marks are on every patch too, so the UNet finds them wherever it looks.
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
        """Return the patches [16, components] of the caption's things, in `style` if allowed."""
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
        """Return the index of the picture of `thing` in `style`, or in another allowed style."""
        allowed = self.allowed(said, thing)
        return self._places[thing, style if style in allowed else allowed[0]]

    def allowed(self, said: Said, thing: int) -> list[str]:
        """Return the styles in which `said` may show `thing`."""
        held = self._held_of(said, thing)
        return [style for style in self._album.things[thing].styles if style not in held]

    def untold(self, said: Said) -> torch.Tensor:
        """Return which pictures are held out for `said`, [pictures]."""
        found = self._held_pictures.clone()
        for thing in said.things:
            for style in self._held_of(said, thing):
                if (place := self._places.get((thing, style))) is not None:
                    found[place] = True
        return found

    def _held_of(self, said: Said, thing: int) -> frozenset[str]:
        return self._held.styles_of(thing, by_keyword=thing in said.by_keyword)
