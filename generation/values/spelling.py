"""Prompts as phones and Discord write them, turned into text that a model can read.

Phones and Discord write curly quotes, invisible characters, ornamental letters, emoji, and a
notation for emoji and mentions. A model that was trained on plain captions reads these as noise.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

# Unicode's longest name of an emoji has 47 characters; a model's file may say anything.
NAME_LENGTH: Final = 80

_JOINER: Final = "\u200d"
_VARIATIONS: Final = "\ufe0e\ufe0f"
_KEYCAP: Final = "\u20e3"
# Digits and punctuation that a variation selector turns into emoji.
_COLORED: Final = frozenset("#*0123456789\u203c\u2049\u2139\u3030\u303d")
_SKIN_TONES: Final = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_TAGS: Final = frozenset(map(chr, range(0xE0020, 0xE0080)))
_GENDERS: Final = re.compile("\u200d[\u2640\u2642]")
_MAN_OR_WOMAN: Final = re.compile("[\U0001f468\U0001f469]")
_PERSON: Final = "\U0001f9d1"
# Emoji, arrows, symbols and dingbats. Letters in circles are left out: NFKC makes them letters.
_PICTOGRAPHS: Final = (range(0x2190, 0x2460), range(0x2500, 0x2C00), range(0x1F000, 0x1F100))
_MORE_PICTOGRAPHS: Final = (range(0x1F170, 0x1F172), range(0x1F17E, 0x1F180))
_EMOJI: Final = range(0x1F18E, 0x1FB00)
_FLAG_LETTERS: Final = range(0x1F1E6, 0x1F200)

# Discord's notation: https://docs.discord.com/developers/reference#message-formatting
_CUSTOM_EMOJI: Final = re.compile(r"<a?:(\w{1,32})(?:~\d{1,3})?:\d{1,21}>")
_USER: Final = re.compile(r"<@!?\d{1,21}>")
_ROLE: Final = re.compile(r"<@&\d{1,21}>")
_COMMAND: Final = re.compile(r"</([\w -]{1,100}):\d{1,21}>")
_WORDLESS: Final = re.compile(r"<#\d{1,21}>|<t:-?\d{1,17}(?::\w)?>|<id:\w{1,32}>")
_SHORTCODE: Final = re.compile(r"(?<![\w:]):([a-z][a-z0-9_]{1,31}):(?![\w:])")
# Only the name in a mention or a hashtag says something.
_SIGIL: Final = re.compile(r"(?<![\w@#])[@#](?=\w)(?!\d)")
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
# A tokenizer reads these as marks that end the text.
_MARKS: Final = re.compile(r"<\|(?:start|end)oftext\|>")

# Applied before NFKC, which would turn some of these into a space and a combining mark.
_STRAIGHT: Final = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u301d\u301e\u301f\uff02", '"'),
        **dict.fromkeys(
            "\u2018\u2019\u201a\u201b\u2039\u203a\u2032\u02b9\u02bb\u02bc\u02c8\u00b4\uff07", "'"
        ),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2e3a\u2e3b\ufe58\ufe63", "-"),
        "\u2044": "/",
        "\u2215": "/",
        "\u00a8": None,
        "\u00af": "-",
        "\u00b8": None,
    }
)
# Letters and signs that look like nothing, with which people leave a place blank.
_BLANKS: Final = str.maketrans(dict.fromkeys("\u2800\u3164\uffa0", " "))
_IGNORED: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2065\u180b\u180c\u180d\u180f")
_AFTER_NUMBER: Final = re.compile("(?<=[0-9])(?=[\u00bc-\u00be\u2150-\u215e])")
_AFTER: Final = str.maketrans({"\u2044": "/"})
# Letters whose marks Unicode does not split off.
_LETTERS: Final = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O"}
    | {"ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"}
)
_JOINING: Final = frozenset({"Lo", "Mn", "Mc"})
_SPACES: Final = frozenset({"Zs", "Zl", "Zp"})
_SELECTORS: Final = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


def spell_emoji(text: str, names: Mapping[str, str]) -> str:
    """Return `text` as plain text, with each emoji in `names` replaced by its name.

    Discord's emoji and mentions are replaced by their names. Quotes, spaces, ligatures and
    ornamental letters get their plain forms (NFKC). Invisible characters are left out. An emoji of
    several characters is replaced as a whole: by its name, or else by its name without skin tone
    and gender; without any name it stays. Applying the function again changes nothing.
    """
    if text.isascii() and not any(mark in text for mark in "<:@#") and text.isprintable():
        return text
    words = without_marks(_without_notation(text.translate(_BLANKS)))
    parts = list(_parts(words, names))
    joined = "".join(part for part, _ in parts)
    # What was invisible may have hidden a mark.
    spelled = without_marks(joined)
    has_names = any(is_name for _, is_name in parts)
    return " ".join(spelled.split()) if has_names or words != text or spelled != joined else spelled


def fold(text: str) -> str:
    """Return `text` with plain quotes, spaces and letters, and without invisible characters."""
    # Otherwise 1½ would become 11/2.
    apart = _AFTER_NUMBER.sub(" ", text)
    plain = unicodedata.normalize("NFKC", apart.translate(_STRAIGHT)).translate(_AFTER)
    plain = _SIGIL.sub("", plain)
    return "".join(_visible(plain))


def without_marks(text: str) -> str:
    """Return `text` without the marks that tell a tokenizer where a text starts and ends."""
    return _MARKS.sub(" ", text)


def without_accents(text: str) -> str:
    """Return `text` with plain letters in place of letters with marks: `cafe` for `café`."""
    apart = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(char for char in apart if not unicodedata.combining(char))


def _without_notation(text: str) -> str:
    """Return `text` with names in place of Discord's emoji and commands, and words for mentions."""
    if "<" not in text and ":" not in text:
        return text
    text = _CUSTOM_EMOJI.sub(lambda found: f" {_spoken(found[1])} ", text)
    text = _COMMAND.sub(lambda found: f" {found[1]} ", text)
    text = _WORDLESS.sub(" ", _ROLE.sub(" people ", _USER.sub(" somebody ", text)))
    return _SHORTCODE.sub(lambda found: f" {_spoken(found[1])} ", text)


def _spoken(name: str) -> str:
    return _HUMP.sub(" ", name).replace("_", " ")


def _parts(text: str, names: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield the parts of the text, each with whether it is the name of an emoji."""
    start = position = 0
    while position < len(text):
        end = _emoji_end(text, position, names)
        if end == position:
            position += 1
            continue
        yield fold(text[start:position]), False
        name = _name(text[position:end], names)
        yield (text[position:end], False) if name is None else (f" {fold(name)} ", True)
        start = position = end
    yield fold(text[start:]), False


def _name(emoji: str, names: Mapping[str, str]) -> str | None:
    plain = emoji.translate(dict.fromkeys(map(ord, _VARIATIONS)))
    toneless = "".join(char for char in plain if char not in _SKIN_TONES) or plain
    genderless = _GENDERS.sub("", toneless)
    neutral = _MAN_OR_WOMAN.sub(_PERSON, genderless)
    found = (names.get(form) for form in (plain, toneless, genderless, neutral))
    return next((name[:NAME_LENGTH] for name in found if name is not None), None)


def _emoji_end(text: str, start: int, names: Mapping[str, str]) -> int:
    """Return the end of the emoji that begins at `start`; `start` if there is none.

    An emoji consists of elements with modifiers, joined by U+200D, or is a flag of two letters
    (https://unicode.org/reports/tr51/#Definitions).
    """
    if ord(text[start]) in _FLAG_LETTERS:
        second = text[start + 1 : start + 2]
        return start + 2 if second and ord(second) in _FLAG_LETTERS else start
    end = _element_end(text, start, names)
    while end > start and text[end : end + 1] == _JOINER and end + 1 < len(text):
        after = _element_end(text, end + 1, names)
        if after == end + 1:
            break
        end = after
    return end


def _element_end(text: str, start: int, names: Mapping[str, str]) -> int:
    end = start + 1
    while end < len(text) and _modifies(text[end]):
        end += 1
    modifiers = text[start + 1 : end]
    is_emoji = (
        _is_pictograph(text[start])
        or (text[start] in names and not text[start].isalnum())
        or ("\ufe0f" in modifiers and _may_be_colored(text[start]))
        or _KEYCAP in modifiers
    )
    return end if is_emoji and not text[start].isspace() else start


def _may_be_colored(char: str) -> bool:
    return char in _COLORED or unicodedata.category(char) in ("So", "Sm")


def _modifies(char: str) -> bool:
    return char in _VARIATIONS or char == _KEYCAP or char in _SKIN_TONES or char in _TAGS


def _is_pictograph(char: str) -> bool:
    code = ord(char)
    if code in _EMOJI:
        return code not in _FLAG_LETTERS
    return any(code in block for block in (*_PICTOGRAPHS, *_MORE_PICTOGRAPHS))


def _visible(text: str) -> Iterator[str]:
    """Yield the characters of `text` that can be seen, and a space for each kind of space."""
    # Characters that are ignored go first, because a joiner is judged by its neighbors.
    around = ["", *(char for char in text if not _is_ignored(char)), ""]
    for (before, char), (_, after) in zip(pairwise(around), pairwise(around[1:]), strict=False):
        kind = unicodedata.category(char) if char else ""
        if kind in _SPACES or char in "\t\n\r\v\f\x85":
            yield char if char in " \t\n\r" else " "
        elif kind == "Cf":
            # In some scripts these characters decide how two letters are joined.
            if char in "\u200c\u200d" and _joins(before) and _joins(after):
                yield char
        elif kind not in ("Cc", "Co"):
            yield char


def _is_ignored(char: str) -> bool:
    return char in _IGNORED or any(ord(char) in block for block in _SELECTORS)


def _joins(char: str) -> bool:
    return bool(char) and unicodedata.category(char) in _JOINING
