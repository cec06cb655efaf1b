"""What a person types into a search box, as a query for FTS5."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

_LONGEST: Final = 100
_MOST_WORDS: Final = 8
# The longest beginning that the index has a list of: see `prefix` in the migrations.
_LONGEST_PREFIX: Final = 6
_JOB_ID: Final = re.compile(r"#?([0-9]{1,18})(?:[-./#][0-9]{0,2})?")


def words(text: str) -> tuple[str, ...]:
    """Return the words of `text` that can be searched for; of a long text the first ones.

    Each is a look into the index of all prompts, while others wait for the database.
    """
    # FTS5 reads up to the first NUL, and SQLite takes no half of a surrogate pair.
    clean = text[:_LONGEST].replace("\x00", " ").encode("utf-8", "replace").decode()
    found = dict.fromkeys(word for word in clean.split() if any(map(_is_token, word)))
    return tuple(found)[:_MOST_WORDS]


def words_query(text: str) -> str | None:
    """Return the FTS5 query for rows that have a word beginning with each word of `text`.

    It is None when `text` holds nothing that can be searched for. Every word becomes a quoted
    string, so no character of it means anything to FTS5 (sqlite.org/fts5.html, section 3.1). Of
    a long word it asks for the beginning only, since the index has no list of longer ones:
    `holds` says whether a prompt that was found has the whole word.
    """
    return " ".join('"{}"*'.format(_cut(word).replace('"', '""')) for word in words(text)) or None


def holds(prompt: str, long_words: Sequence[str]) -> bool:
    """Tell whether each of the words begins one in `prompt`, by the rules of the index."""
    folded = f" {_folded(prompt)}"
    return all(f" {_folded(word)}" in folded for word in long_words)


def long_words(text: str) -> tuple[str, ...]:
    """Return the words of `text` of which `words_query` asks for the beginning only."""
    return tuple(word for word in words(text) if _cut(word) != word)


def job_id(text: str) -> int | None:
    """Return the job's number if `text` names a job or its picture: `12`, `#12`, `12-1`."""
    match = _JOB_ID.fullmatch(text.strip())
    return int(match.group(1)) if match else None


def _is_token(character: str) -> bool:
    """Tell whether the tokenizer of the index keeps this character: see its `categories`."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category in {"Co", "So"}


def _is_diacritic(character: str) -> bool:
    """Tell whether the tokenizer takes this character for a part of the letter before it."""
    return "\u0300" <= character <= "\u0331"


def _cut(word: str) -> str:
    """Return `word` without what its last token has behind the longest prefix of the index."""
    end = len(word)
    while not _is_token(word[end - 1]):
        end -= 1
    start = end
    while start and (_is_token(word[start - 1]) or _is_diacritic(word[start - 1])):
        start -= 1
    letters = [at for at in range(start, end) if _is_token(word[at])]
    if len(letters) <= _LONGEST_PREFIX:
        return word
    return word[: letters[_LONGEST_PREFIX]]


def _folded(text: str) -> str:
    """Return the tokens of `text` without case and diacritics, a space between two."""
    kept = (
        c if not unicodedata.category(c).startswith("M") or _is_diacritic(c) else " " for c in text
    )
    letters = unicodedata.normalize("NFD", "".join(kept)).casefold()
    plain = (c for c in letters if not unicodedata.category(c).startswith("M"))
    return " ".join("".join(c if _is_token(c) else " " for c in plain).split())
