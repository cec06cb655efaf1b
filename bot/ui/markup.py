"""What people typed, as text that does nothing when it is shown: pure functions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

# discord.py's own escaping leaves the second of two masked links alone, and all URLs.
_MARKUP: Final = re.compile(r"([\\_*~|`<>\[\]()#-])")
# A server's own emoji, which stays one where it is shown in that server.
_CUSTOM_EMOJI: Final = re.compile(r"<a?:\w{2,32}:\d{17,20}>")
_NAMED_EMOJI: Final = re.compile(r"<a?(:\w{2,32}:)\d{17,20}>")
# Discord makes links of addresses with a scheme, and looks up invitations without one, too.
_SLASHES: Final = re.compile(r"//")
_SCHEME: Final = re.compile(r":(?=//)|(?<=\bmailto):|(?<=\btel):|(?<=\bsms):")
_DOT: Final = re.compile(r"(?<=\w)\.(?=[^\W\d_])")
_SPACES: Final = frozenset({"Zl", "Zp"})
# What joins the parts of an emoji, and of words in some scripts.
_JOINERS: Final = frozenset("\u200c\u200d")
_TAGS: Final = range(0xE0020, 0xE0080)


def inert(text: str) -> str:
    """Return `text` such that Discord shows it as it stands: no markup, no links, no invitations.

    A server's own emoji are shown as what they are.
    """
    start, parts = 0, list[str]()
    for emoji in _CUSTOM_EMOJI.finditer(text):
        parts += [_escaped(text[start : emoji.start()]), emoji[0]]
        start = emoji.end()
    return "".join([*parts, _escaped(text[start:])])


def plain(text: str) -> str:
    """Return `text` for places without markup: a server's own emoji by name, nothing invisible."""
    return visible(_NAMED_EMOJI.sub(r"\1", text))


def visible(text: str) -> str:
    """Return `text` without what cannot be seen, such as marks of direction."""
    return "".join(_visible(text))


def _escaped(text: str) -> str:
    marked = _MARKUP.sub(r"\\\1", text)
    return _DOT.sub(r"\\.", _SLASHES.sub(r"\\/\\/", _SCHEME.sub(r"\\:", marked)))


def _visible(text: str) -> Iterator[str]:
    for char in text:
        kind = unicodedata.category(char)
        if kind in _SPACES or char in "\t\n\r\v\f\x85":
            yield " "
        elif kind not in ("Cc", "Cf") or char in _JOINERS or ord(char) in _TAGS:
            yield char
