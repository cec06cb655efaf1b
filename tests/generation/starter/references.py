"""Some of the things that the bundled model knows, to tell what its pictures show.

`python -m tests.generation.starter.references` draws them again, by lot from the packages that the
model was trained on; their licences lie beside the pictures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from generation.starter.train import read_album
from generation.starter.training.drawings.drawing import EDGE, Album
from generation.starter.training.drawings.scenes import HeldOut
from generation.starter.training.drawings.things import STYLES, Thing

_FOLDER: Final = Path(__file__).with_name("references")
_SHEET: Final = _FOLDER / "pictures.png"
_LIST: Final = _FOLDER / "things.json"
_WORK: Final = Path("data/starter")
_COUNT: Final = 24


def read_references() -> tuple[Album, HeldOut]:
    """Return an album of a few things in all styles, and what training held out of them."""
    listed: list[dict[str, Any]] = json.loads(_LIST.read_text("utf-8"))
    things = tuple(
        Thing(
            each["hexcode"], each["name"], tuple(each["keywords"]), tuple(STYLES), each["mirrors"]
        )
        for each in listed
    )
    with Image.open(_SHEET) as sheet:
        rows = np.asarray(sheet).reshape(len(things), EDGE, len(STYLES), EDGE, 4)
    pictures = rows.swapaxes(1, 2).reshape(-1, EDGE, EDGE, 4)
    order = [(thing.name, style) for thing in things for style in STYLES]
    held = HeldOut(
        tuple(each["held_out_colour"] for each in listed),
        {},
        tuple(each["held_out_keyword_style"] for each in listed),
    )
    return Album(things, pictures, {key: place for place, key in enumerate(order)}), held


def write_references() -> None:
    """Draw `_COUNT` things by lot that training showed in every style, and write them down."""
    album, held = read_album(_WORK)
    usable = [
        place
        for place, thing in enumerate(album.things)
        if len(thing.styles) == len(STYLES) and place not in held.styles
    ]
    chosen = sorted(np.random.default_rng(1).choice(usable, _COUNT, replace=False).tolist())
    rows = [
        np.concatenate([album.pictures[album.index[album.things[p].name, s]] for s in STYLES], 1)
        for p in chosen
    ]
    _FOLDER.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(_SHEET, optimize=True)
    listed = [
        {
            "hexcode": album.things[place].hexcode,
            "name": album.things[place].name,
            "keywords": album.things[place].keywords,
            "mirrors": album.things[place].mirrors,
            "held_out_colour": held.colours[place],
            "held_out_keyword_style": held.keyword_styles[place],
        }
        for place in chosen
    ]
    _LIST.write_text(json.dumps(listed, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write_references()
