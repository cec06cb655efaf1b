"""Recognises what a picture shows: the nearest training picture in the autoencoder's latents.

Position, size, tilt and direction of a thing are free, so they must not count. First a picture is
framed: the part that differs from the colour of its border is cut out, scaled to one size and
centred. Its latents are compared with those of every training picture, framed the same way on the
same colour. Then the nearest few are drawn at several tilts and compared again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..drawings.drawing import EDGE, Album, Bytes
from ..drawings.scenes import COLOURS, SIZES, Scene, Size, Subject, compose
from ..learning.autoencoder import to_tensor

_RING: Final = 3
# A pixel this far from the border's colour, summed over red, green and blue, belongs to a thing.
_AWAY: Final = 60.0
# Fewer pixels than this in a row or column are specks, not a part of the thing.
_SPECKS: Final = 1
_FILL: Final = 0.9
# Up to this share of the picture's edge, a thing counts as one of two.
_SMALL: Final = 0.55
_NEAREST: Final = 8
# The upright pictures have been compared already.
_TILTS: Final = (-6.0, 6.0)
# More at once take longer (see `latents.py`).
_BATCH: Final = 16
# Two things side by side are separated within this middle part of the columns.
_MIDDLE: Final = (0.38, 0.62)

Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Match:
    """The nearest training picture: the thing's place in the album, its style, the distance."""

    thing: int
    style: str
    distance: float


def border_colour(picture: Bytes) -> str:
    """Return the name of the colour nearest to the median of the three outermost pixels."""
    found = _border(picture)
    return min(COLOURS, key=lambda name: float(np.square(found - COLOURS[name]).sum()))


def _border(picture: Bytes) -> npt.NDArray[np.float64]:
    inner = np.zeros(picture.shape[:2], bool)
    inner[_RING:-_RING, _RING:-_RING] = True
    return np.median(picture[~inner].astype(np.float64), axis=0)


def foreground(picture: Bytes) -> Mask:
    """Return which pixels are far from the colour of the border."""
    mask: Mask = np.abs(picture - _border(picture)).sum(-1) > _AWAY
    return mask


def framed(picture: Bytes) -> Bytes:
    """Return the foreground of a picture, centred and scaled, on the colour of the border."""
    ground = tuple(round(float(value)) for value in _border(picture))
    canvas = Image.new("RGB", (EDGE, EDGE), ground)
    if box := _box(picture):
        part = Image.fromarray(picture).crop(box)
        scale = _FILL * EDGE / max(part.size)
        width, height = (max(1, round(side * scale)) for side in part.size)
        part = part.resize((width, height), Image.Resampling.BICUBIC)
        canvas.paste(part, ((EDGE - width) // 2, (EDGE - height) // 2))
    return np.asarray(canvas)


def drawn_size(picture: Bytes) -> Size:
    """Return whether the foreground has the size of one of two things, not of one alone."""
    left, top, right, bottom = _box(picture) or (0, 0, *picture.shape[1::-1])
    return "half" if max(right - left, bottom - top) < _SMALL * EDGE else "usual"


def _box(picture: Bytes) -> Box | None:
    """Return left, top, right and bottom of the foreground, or None for a bare background."""
    mask = foreground(picture)
    rows = np.flatnonzero(mask.sum(1) > _SPECKS)
    columns = np.flatnonzero(mask.sum(0) > _SPECKS)
    if not len(rows) or not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def halves(picture: Bytes) -> tuple[Bytes, Bytes]:
    """Return the left and the right thing of a picture, each alone on the border's colour.

    The cut is the column near the middle with the least foreground.
    """
    counts = foreground(picture).sum(0)
    width = picture.shape[1]
    low, high = (int(share * width) for share in _MIDDLE)
    candidates = np.arange(low, high)
    empty = candidates[counts[low:high] == counts[low:high].min()]
    cut = int(empty[len(empty) // 2])
    parts = []
    for columns in (slice(cut, None), slice(None, cut)):
        part = picture.copy()
        part[:, columns] = _border(picture).round()
        parts.append(part)
    return parts[0], parts[1]


class Recogniser:
    """Finds the nearest training picture of an album in the latents of an autoencoder."""

    def __init__(self, album: Album, autoencoder: Any) -> None:
        self._album, self._autoencoder = album, autoencoder
        # Every picture, and its mirror image if training mirrors it.
        self._poses = [
            (place, style, mirrored)
            for place, thing in enumerate(album.things)
            for style in thing.styles
            for mirrored in ((False, True) if thing.mirrors else (False,))
        ]
        self._banks: dict[tuple[str, Size], torch.Tensor] = {}

    @torch.inference_mode()
    def latents(self, pictures: Sequence[Bytes]) -> torch.Tensor:
        """Return the means of the latents, one flat row for each picture."""
        rows = []
        for start in range(0, len(pictures), _BATCH):
            batch = to_tensor(np.stack(pictures[start : start + _BATCH]))
            placed = batch.to(self._autoencoder.device, self._autoencoder.dtype)
            mean = self._autoencoder.encode(placed).latent_dist.mean
            rows.append(mean.flatten(1).float().cpu())
        return torch.cat(rows)

    def match(self, picture: Bytes, style: str | None = None) -> Match:
        """Return the training picture nearest to `picture`, of those in `style` if it is given."""
        colour, size = border_colour(picture), drawn_size(picture)
        sought = self.latents([framed(picture)])[0]
        places = [at for at, pose in enumerate(self._poses) if style in {None, pose[1]}]
        away = (self._bank(colour, size)[places] - sought).square().sum(1)
        upright, nearest = away.topk(min(_NEAREST, len(places)), largest=False)
        near = [places[int(at)] for at in nearest]
        tilted = [(place, tilt) for place in near for tilt in _TILTS]
        drawn = self.latents([self._drawn(place, colour, size, tilt) for place, tilt in tilted])
        again = torch.cat([upright, (drawn - sought).square().sum(1)])
        candidates = [*near, *(place for place, _ in tilted)]
        thing, found, _ = self._poses[candidates[int(again.argmin())]]
        return Match(thing, found, float(again.min().sqrt()))

    def _bank(self, colour: str, size: Size) -> torch.Tensor:
        if (colour, size) not in self._banks:
            drawn = [self._drawn(place, colour, size, 0.0) for place in range(len(self._poses))]
            self._banks[colour, size] = self.latents(drawn)
        return self._banks[colour, size]

    def _drawn(self, pose: int, colour: str, size: Size, tilt: float) -> Bytes:
        thing, style, mirrored = self._poses[pose]
        subject = Subject(thing, mirrored=mirrored, tilt=tilt, extent=sum(SIZES[size]) / 2)
        return framed(compose(self._album, Scene((subject,), style, colour, size)))
