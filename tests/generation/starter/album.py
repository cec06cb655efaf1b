"""A small album of plain shapes, and packages like those of the icons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from generation.starter.training.drawings.drawing import EDGE, Album, Bytes
from generation.starter.training.drawings.sources import FLAT, NAMES, NOTO
from generation.starter.training.drawings.things import Thing
from generation.starter.training.learning.networks import Shape

TINY = Shape(
    autoencoder=(8, 16, 16),
    autoencoder_groups=4,
    latent_channels=4,
    unet=(32, 32),
    unet_groups=8,
    head=16,
    text=32,
    text_layers=1,
    text_inner=64,
    text_heads=2,
    vocabulary=400,
    edge=32,
)
STYLES = ("noto", "flat")
_SHAPES = {
    "red ball": ("ellipse", (4, 4, 124, 124), (200, 20, 60), ("sphere",)),
    "brown box": ("rectangle", (4, 4, 124, 124), (120, 70, 30), ("crate", "parcel")),
    "teal bar": ("rectangle", (4, 44, 124, 84), (20, 150, 140), ()),
    "violet post": ("rectangle", (44, 4, 84, 124), (90, 40, 160), ("pole",)),
    "half moon": ("pieslice", (4, 4, 124, 124), (240, 220, 120), ("crescent",)),
}


def album() -> Album:
    """Return five things in two styles: in the flat one they have a dark hole."""
    things, pictures, index = [], [], {}
    for name, (form, box, colour, keywords) in _SHAPES.items():
        # The half moon looks to one side; mirrored it would not be the same thing.
        things.append(Thing(name, name, keywords, STYLES, mirrors=name != "half moon"))
        for style in STYLES:
            index[name, style] = len(pictures)
            pictures.append(_picture(form, box, colour, style))
    return Album(tuple(things), np.stack(pictures), index)


def _picture(form: str, box: tuple[int, ...], colour: tuple[int, int, int], style: str) -> Bytes:
    image = Image.new("RGBA", (EDGE, EDGE))
    pen = ImageDraw.Draw(image)
    angles = (90, 270) if form == "pieslice" else ()
    getattr(pen, form)(box, *angles, fill=(*colour, 255))
    if style == "flat":
        pen.rectangle((52, 52, 76, 76), fill=(10, 30, 10, 255))
    return np.asarray(image)


def write_packages(folder: Path) -> None:
    """Write packages of three icons and the names of six characters."""
    entries = [
        _entry("26BD", "soccer ball", 6, ("football", "soccer", "sport")),
        _entry("1F3C9", "rugby football", 6, ("football", "rugby", "sport")),
        _entry("1F3C0", "basketball", 6, ("hoop", "sport")),
        _entry("1F44B", "waving hand", 1, ("hand",)),
        _entry("25AA-FE0F", "black small square", 8, ("square",)),
        _entry("27A1-FE0F", "right arrow", 8, ("arrow", "east")),
    ]
    _write(folder / NAMES.folder / "data.json", entries)
    icons = {
        "ball": {"body": '<circle cx="8" cy="8" r="4" fill="#f00"/>'},
        "bar": {"body": '<rect x="2" y="7" width="12" height="2" fill="#00f"/>'},
    }
    chars = {"26bd": "ball", "1f3c9": "oval", "27a1": "bar", "25aa": "bar", "1f44b": "ball"}
    for package in (NOTO, FLAT):
        own = dict(chars) if package is NOTO else {"26bd": "ball"}
        _write(folder / package.folder / "chars.json", own)
        sets = {"icons": icons, "aliases": {"oval": {"parent": "ball"}}, "width": 16, "height": 16}
        _write(folder / package.folder / "icons.json", sets)


def _entry(code: str, label: str, group: int, tags: tuple[str, ...]) -> dict[str, object]:
    return {"hexcode": code, "label": label, "group": group, "tags": tags, "order": 1}


def _write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), "utf-8")
