"""The things that the model learns to draw: their names, keywords and pictures."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .sources import FLAT, NAMES, NOTO, Package

STYLES: Final[Mapping[str, Package]] = {"noto": NOTO, "flat": FLAT}
# Groups of emojibase that are left out: people and body, components, flags.
_GROUPS_LEFT_OUT: Final = frozenset({1, 2, 9})
_SYMBOLS: Final = 8
# The pictures of these differ from others only in size, and sizes vary freely here.
_SIZE_IS_THE_NAME: Final = re.compile(r"\b(medium|small)\b.*\b(square|diamond|circle)\b")
_HAS_DIRECTION: Final = re.compile(
    r"\b(left|right|up|down|clock|thirty|hourglass|input|abc|medal|keyboard|calendar|newspaper"
    r"|north|east|west|facing|playing)\b|\d"
)
_THINGS_PER_KEYWORD: Final = 2
_SHORTEST_KEYWORD: Final = 3


@dataclass(frozen=True, slots=True)
class Thing:
    """Something with a name and a picture in at least one style.

    `hexcode` is the Unicode code, which identifies the thing in every package. A keyword is a word
    that CLDR gives to this and few other things, and that is no other thing's name.
    """

    hexcode: str
    name: str
    keywords: tuple[str, ...]
    styles: tuple[str, ...]
    mirrors: bool


def read_things(packages: Path, styles: tuple[str, ...]) -> tuple[Thing, ...]:
    """Return all things that have a picture in one of `styles`, in emojibase's order."""
    entries = [entry for entry in _entries(packages) if _is_wanted(entry)]
    pictured = {style: picture_names(packages, style) for style in styles}
    names = [plain(entry["label"]) for entry in entries]
    tags = [[plain(tag) for tag in entry.get("tags", ())] for entry in entries]
    owners = Counter(tag for own in tags for tag in set(own))
    things: dict[str, Thing] = {}
    for entry, name, own in zip(entries, names, tags, strict=True):
        code = base_hexcode(entry["hexcode"])
        found = tuple(style for style in styles if code in pictured[style])
        keywords = tuple(
            dict.fromkeys(
                tag
                for tag in own
                if owners[tag] <= _THINGS_PER_KEYWORD
                and len(tag) >= _SHORTEST_KEYWORD
                and tag not in names
            )
        )
        if found and name and name not in things:
            things[name] = Thing(code, name, keywords, found, _mirrors(entry, name))
    return tuple(things.values())


def emoji_names(things: Iterable[Thing]) -> dict[str, str]:
    """Return the names of `things` by the characters that people type for them."""
    return {
        "".join(chr(int(code, 16)) for code in thing.hexcode.split("-")): thing.name
        for thing in things
    }


def _entries(packages: Path) -> list[dict[str, Any]]:
    text = (packages / NAMES.folder / "data.json").read_text("utf-8")
    entries: list[dict[str, Any]] = json.loads(text)
    return sorted(entries, key=lambda entry: entry.get("order", 0))


def _is_wanted(entry: Mapping[str, Any]) -> bool:
    group = entry.get("group")
    if group is None or group in _GROUPS_LEFT_OUT:
        return False
    return not _SIZE_IS_THE_NAME.search(plain(entry["label"]))


def _mirrors(entry: Mapping[str, Any], name: str) -> bool:
    """Return whether the mirrored picture still shows the same: no text, arrow or clock."""
    return entry["group"] != _SYMBOLS and not _HAS_DIRECTION.search(name)


def picture_names(packages: Path, style: str) -> Mapping[str, str]:
    """Return the name of the icon of each hexcode in the package of `style`."""
    text = (packages / STYLES[style].folder / "chars.json").read_text("utf-8")
    found: dict[str, str] = json.loads(text)
    return {base_hexcode(code): icon for code, icon in found.items()}


def base_hexcode(code: str) -> str:
    """Return `code` in capitals without variation selectors, which not all packages write."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def plain(text: str) -> str:
    """Return `text` as people type it: lower-case ASCII words, apostrophes and single spaces.

    A hyphen becomes a space: `four-leaf clover` is `four leaf clover`.
    """
    text = text.replace("’", "'").replace("ʻ", "'")
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", letters).split())
