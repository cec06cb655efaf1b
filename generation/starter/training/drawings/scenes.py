"""Scenes: what a training picture shows, drawn from a seed, and how the picture is composed.

`(seed, number)` alone decides a scene. So a set of scenes can be made again to the last pixel, in
any order and by any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from .drawing import EDGE, Album, Bytes
from .things import Thing

COLOURS: Final[Mapping[str, tuple[int, int, int]]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (220, 40, 40),
    "blue": (40, 90, 220),
    "green": (40, 170, 70),
    "yellow": (250, 210, 40),
    "orange": (240, 140, 30),
    "purple": (150, 60, 200),
    "pink": (245, 140, 180),
    "gray": (128, 128, 128),
}
Size = Literal["tiny", "usual", "huge", "half"]
# The longer side of the opaque part, as a share of the picture's edge.
SIZES: Final[Mapping[Size, tuple[float, float]]] = {
    "tiny": (0.315, 0.345),
    "usual": (0.73, 0.79),
    "huge": (0.96, 0.99),
    "half": (0.385, 0.415),
}
# Where the middles of one thing and of two lie, as shares of the picture's width.
CENTRES: Final = {1: (0.5,), 2: (0.27, 0.73)}
_PAIRS: Final = 0.15
_TINY: Final = 0.08
_HUGE: Final = 0.04
_MIRRORED: Final = 0.1
_TILT: Final = 4.0
_TINT: Final = 0.06
_LIGHT: Final = (0.9, 1.06)
_SHADE: Final = 0.1
# A share of the free space: a pixel for the usual size. If a thing moves by three pixels, half of
# the fine detail of its latents changes. A network this small cannot tell the position from noise:
# with shifts up to six pixels it painted the mean of all positions until little noise was left.
_SHIFT: Final = 0.035
_ACROSS: Final = 0.01
_BACKGROUND_JITTER: Final = 6.0
_HELD_OUT_STYLES: Final = 120
# A picture that is scaled below this share is halved first, or thin lines would flicker.
_HALVED_BELOW: Final = 0.55

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing in a scene: where it is and how it looks.

    `extent` is its longer side and `x`, `y` its middle, as shares of the picture's edge;
    `tilt` is in degrees, `tint` a factor for each of red, green and blue, `shade` the slope
    of the light across the picture in x and y.
    """

    thing: int
    mirrored: bool = False
    tilt: float = 0.0
    extent: float = 0.76
    x: float = 0.5
    y: float = 0.5
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shade: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two subjects, from left to right, on a background."""

    subjects: tuple[Subject, ...]
    style: str
    colour: str
    size: Size = "usual"
    background: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class HeldOut:
    """What training never shows together, by the thing's place in the album.

    `colours` and `styles` are never shown with the thing. `keyword_styles` are never shown with
    the thing called by one of its keywords.
    """

    colours: tuple[str, ...]
    styles: Mapping[int, str]
    keyword_styles: tuple[str, ...]

    def styles_of(self, thing: int, *, by_keyword: bool) -> frozenset[str]:
        """Return the styles in which `thing`, called by name or keyword, is never shown."""
        held = [self.styles[thing]] if thing in self.styles else []
        return frozenset([*held, self.keyword_styles[thing]] if by_keyword else held)

    def allows(self, thing: int, style: str, colour: str) -> bool:
        """Return whether training may show `thing` in this style on this colour."""
        return self.styles.get(thing) != style and self.colours[thing] != colour


def hold_out(things: Sequence[Thing], styles: Sequence[str], seed: int) -> HeldOut:
    """Return what is held out: a colour for every thing, and a style for some."""
    random = np.random.default_rng([seed, 0])
    colours = tuple(str(name) for name in random.choice(list(COLOURS), len(things)))
    keyword_styles = tuple(str(name) for name in random.choice(list(styles), len(things)))
    several = [place for place, thing in enumerate(things) if len(thing.styles) > 1]
    count = min(_HELD_OUT_STYLES, len(several) // 5)
    chosen = sorted(int(place) for place in random.choice(several, count, replace=False))
    held = {place: str(random.choice(things[place].styles)) for place in chosen}
    return HeldOut(colours, held, keyword_styles)


def begins_as_pair(seed: int, number: int) -> bool:
    """Return whether the first draw for scene `number` is a pair.

    This takes a tenth of the time of `draw_scene`, which may refuse the first draw for another.
    """
    return bool(np.random.default_rng([seed, 1, number]).random() < _PAIRS)


def draw_scene(album: Album, held: HeldOut | None, seed: int, number: int) -> Scene:
    """Return scene `number` of the set `seed`, without anything that is held out."""
    random = np.random.default_rng([seed, 1, number])
    while True:
        things = random.integers(len(album.things), size=1 + (random.random() < _PAIRS))
        style = str(random.choice(album.styles))
        colour = str(random.choice(list(COLOURS)))
        if all(
            style in album.things[place].styles
            and (held is None or held.allows(int(place), style, colour))
            for place in things
        ):
            return arrange(album, [int(place) for place in things], style, colour, random)


def arrange(
    album: Album,
    things: Sequence[int],
    style: str,
    colour: str,
    random: np.random.Generator,
    size: Size | None = None,
) -> Scene:
    """Return a scene of `things` with all else drawn from `random`."""
    if len(things) > 1:
        size = "half"
    elif size is None:
        dice = random.random()
        size = "tiny" if dice < _TINY else "huge" if dice < _TINY + _HUGE else "usual"
    subjects = tuple(
        _place(place, album.things[place].mirrors, size, centre, random)
        for place, centre in zip(things, CENTRES[len(things)], strict=True)
    )
    jitter = random.uniform(-_BACKGROUND_JITTER, _BACKGROUND_JITTER, 3)
    red, green, blue = (float(v) for v in np.clip(np.array(COLOURS[colour]) + jitter, 0, 255))
    return Scene(subjects, style, colour, size, (red, green, blue))


def _place(
    thing: int, mirrors: bool, size: Size, centre: float, random: np.random.Generator
) -> Subject:
    extent = float(random.uniform(*SIZES[size]))
    free = max(0.0, 1.0 - extent) * _SHIFT
    across = _ACROSS if size == "half" else free
    light = random.uniform(*_LIGHT)
    red, green, blue = (float(v) for v in light * random.uniform(1 - _TINT, 1 + _TINT, 3))
    across_light, down_light = (float(v) for v in random.uniform(-_SHADE, _SHADE, 2))
    return Subject(
        thing,
        mirrored=bool(mirrors and random.random() < _MIRRORED),
        tilt=float(random.uniform(-_TILT, _TILT)),
        extent=extent,
        x=centre + float(random.uniform(-across, across)),
        y=0.5 + float(random.uniform(-free, free)),
        tint=(red, green, blue),
        shade=(across_light, down_light),
    )


def compose(album: Album, scene: Scene) -> Bytes:
    """Return the picture of `scene`, RGB [128, 128, 3]."""
    ground = scene.background or COLOURS[scene.colour]
    canvas = np.empty((EDGE, EDGE, 3), np.float32)
    canvas[:] = ground
    for subject in scene.subjects:
        picture = album.pictures[album.index[album.things[subject.thing].name, scene.style]]
        layer = np.asarray(_moved(picture, subject), np.float32)
        opacity = layer[..., 3:] / 255
        canvas += opacity * (layer[..., :3] * _light(subject) - canvas)
    pixels: Bytes = canvas.clip(0, 255).round().astype(np.uint8)
    return pixels


_RAMP: Final = np.linspace(-1, 1, EDGE, dtype=np.float32)


def _light(subject: Subject) -> Floats:
    across, down = subject.shade
    slope = 1 + across * _RAMP[None, :] + down * _RAMP[:, None]
    light: Floats = slope[..., None] * np.array(subject.tint, np.float32)
    return light


def _moved(picture: Bytes, subject: Subject) -> Image.Image:
    """Return `picture` mirrored, tilted, scaled and moved to its place in the scene."""
    image = Image.fromarray(picture)
    edge = EDGE
    if subject.extent < _HALVED_BELOW:
        image, edge = image.reduce(2), EDGE // 2
    # An affine transform wants, for each target pixel, the source pixel: the inverse of
    # scaling by `extent`, tilting, mirroring, and moving the middle to (x, y).
    scale = edge / (EDGE * subject.extent)
    angle = math.radians(subject.tilt)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    flip = -1.0 if subject.mirrored else 1.0
    x, y, middle = subject.x * EDGE, subject.y * EDGE, edge / 2
    matrix = (
        flip * cosine,
        flip * sine,
        middle - flip * (cosine * x + sine * y),
        -sine,
        cosine,
        middle + sine * x - cosine * y,
    )
    return image.transform((EDGE, EDGE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
