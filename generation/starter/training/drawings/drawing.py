"""Draws the icons of the packages once, each on its own transparent square."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from .things import STYLES, Thing, picture_names, read_things

EDGE: Final = 128
_OVERSIZED: Final = 2 * EDGE
_MARGIN: Final = 1
_CHUNK: Final = 32
# Alpha up to this counts as transparent.
_FAINT: Final = 8

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Album:
    """All things and their pictures: `pictures[index[name, style]]` is RGBA, 128x128.

    The opaque part reaches two opposite edges of its square, except for a margin of one pixel.
    """

    things: tuple[Thing, ...]
    pictures: Bytes
    index: Mapping[tuple[str, str], int]

    @cached_property
    def styles(self) -> tuple[str, ...]:
        """Return the styles of the pictures in alphabetical order."""
        return tuple(sorted({style for _, style in self.index}))


def open_album(packages: Path, cache: Path, styles: Sequence[str]) -> Album:
    """Return the album of `styles`, drawn now or read from the file in the folder `cache`."""
    things = read_things(packages, tuple(styles))
    wanted = [(thing, style) for thing in things for style in thing.styles]
    file = cache / f"album-{'-'.join(styles)}-{EDGE}.npz"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        pictures = _draw_all(packages, wanted)
        partial = file.with_suffix(".partial.npz")
        np.savez_compressed(partial, pictures=pictures)
        partial.replace(file)
    with np.load(file) as stored:
        pictures = stored["pictures"]
    if len(pictures) != len(wanted):
        raise ValueError(f"{file} holds {len(pictures)} pictures, not {len(wanted)}; remove it.")
    index = {(thing.name, style): place for place, (thing, style) in enumerate(wanted)}
    return Album(things, pictures, index)


def _draw_all(packages: Path, wanted: Sequence[tuple[Thing, str]]) -> Bytes:
    drawn: dict[str, Any] = {}
    for style in STYLES:
        svgs = _svgs(packages, style, [thing for thing, of in wanted if of == style])
        with ProcessPoolExecutor() as pool:
            for code, picture in zip(
                svgs, pool.map(draw, svgs.values(), chunksize=_CHUNK), strict=True
            ):
                drawn[f"{style} {code}"] = picture
    return np.stack([drawn[f"{style} {thing.hexcode}"] for thing, style in wanted])


def _svgs(packages: Path, style: str, things: Sequence[Thing]) -> dict[str, str]:
    """Return the SVG document of each of `things` in the package of `style`, by hexcode."""
    icons = json.loads((packages / STYLES[style].folder / "icons.json").read_text("utf-8"))
    names = picture_names(packages, style)
    return {thing.hexcode: _svg(icons, names[thing.hexcode]) for thing in things}


def _svg(icons: Mapping[str, Any], name: str) -> str:
    """Return icon `name` of an Iconify set as a document (https://iconify.design/docs/types/)."""
    if name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def draw(svg: str) -> Bytes:
    """Return `svg` as RGBA [128, 128, 4], with the opaque part centred, as large as fits."""
    # Only drawing needs this renderer, which comes with the extra `train`.
    import resvg_py  # noqa: PLC0415

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_OVERSIZED, height=_OVERSIZED))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > _FAINT)).getbbox()
    return np.asarray(_fitted(image.crop(box) if box else image))


def _fitted(image: Image.Image) -> Image.Image:
    room = EDGE - 2 * _MARGIN
    scale = room / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (EDGE, EDGE))
    square.paste(small, ((EDGE - width) // 2, (EDGE - height) // 2))
    return square
