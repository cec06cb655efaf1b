"""Makes typed text harmless in messages: no markup, no links, no invisible characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

# discord.py's own escaping misses the second of two masked links, and all URLs.
_MARKUP: Final = re.compile(r"([\\_*~|`<>\[\]()#-])")
# A server's own emoji, which Discord shows as a picture.
_CUSTOM_EMOJI: Final = re.compile(r"<a?:\w{2,32}:\d{17,20}>")
_NAMED_EMOJI: Final = re.compile(r"<a?(:\w{2,32}:)\d{17,20}>")
# Discord turns addresses with a scheme into links, and invitations even without a scheme.
_SLASHES: Final = re.compile(r"//")
_SCHEME: Final = re.compile(r":(?=//)|(?<=\bmailto):|(?<=\btel):|(?<=\bsms):")
_DOT: Final = re.compile(r"(?<=\w)\.(?=[^\W\d_])")
_SPACES: Final = frozenset({"Zl", "Zp"})
# These join the parts of an emoji, and of words in some scripts.
_JOINERS: Final = frozenset("\u200c\u200d")
_TAGS: Final = range(0xE0020, 0xE0080)


def inert(text: str) -> str:
    """Return `text` escaped, so that Discord shows no markup, links or invitations in it.

    A server's own emoji stay emoji.
    """
    start, parts = 0, list[str]()
    for emoji in _CUSTOM_EMOJI.finditer(text):
        parts += [_escaped(text[start : emoji.start()]), emoji[0]]
        start = emoji.end()
    return "".join([*parts, _escaped(text[start:])])


def plain(text: str) -> str:
    """Return `text` for places without markup: emoji of a server become their names."""
    return visible(_NAMED_EMOJI.sub(r"\1", text))


def visible(text: str) -> str:
    """Return `text` without invisible characters, such as marks of direction."""
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
