"""The text that a person searches for, as a query of SQLite's full-text search, FTS5."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

_LENGTH_MAX: Final = 100
_WORDS_MAX: Final = 8
# The longest prefix in the index: see `prefix` in step 6 of the schema.
_PREFIX_MAX: Final = 6


def words(text: str) -> tuple[str, ...]:
    """Return the words of `text` that can be searched for, up to a limit.

    Every word costs a lookup in the index of all prompts.
    """
    # FTS5 stops at a NUL, and SQLite refuses half of a surrogate pair.
    clean = text[:_LENGTH_MAX].replace("\x00", " ").encode("utf-8", "replace").decode()
    found = dict.fromkeys(word for word in clean.split() if any(map(_is_token, word)))
    return tuple(found)[:_WORDS_MAX]


def words_query(text: str) -> str | None:
    """Return the FTS5 query for prompts in which each word of `text` begins a word.

    Return None if `text` has no words that can be searched for. Every word becomes a quoted
    string, so FTS5 interprets no character of it (sqlite.org/fts5.html, section 3.1). The query
    has only the prefix of a long word, since the index has no longer prefixes. `holds` then
    checks the whole word.
    """
    return " ".join('"{}"*'.format(_cut(word).replace('"', '""')) for word in words(text)) or None


def holds(prompt: str, long_words: Sequence[str]) -> bool:
    """Return whether each of the words begins a word of `prompt`, by the rules of the index."""
    folded = f" {_folded(prompt)}"
    return all(f" {_folded(word)}" in folded for word in long_words)


def long_words(text: str) -> tuple[str, ...]:
    """Return the words of `text` that `words_query` shortens."""
    return tuple(word for word in words(text) if _cut(word) != word)


def _is_token(character: str) -> bool:
    """Return whether the tokenizer of the index keeps this character: see `categories`."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category in {"Co", "So"}


def _is_diacritic(character: str) -> bool:
    """Return whether the tokenizer counts this character as part of the letter before it."""
    return "\u0300" <= character <= "\u0331"


def _cut(word: str) -> str:
    """Return `word` with its last token shortened to the longest prefix of the index."""
    end = len(word)
    while not _is_token(word[end - 1]):
        end -= 1
    start = end
    while start and (_is_token(word[start - 1]) or _is_diacritic(word[start - 1])):
        start -= 1
    letters = [at for at in range(start, end) if _is_token(word[at])]
    if len(letters) <= _PREFIX_MAX:
        return word
    return word[: letters[_PREFIX_MAX]]


def _folded(text: str) -> str:
    """Return the tokens of `text` without case and diacritics, joined by spaces."""
    kept = (
        c if not unicodedata.category(c).startswith("M") or _is_diacritic(c) else " " for c in text
    )
    letters = unicodedata.normalize("NFD", "".join(kept)).casefold()
    plain = (c for c in letters if not unicodedata.category(c).startswith("M"))
    return " ".join("".join(c if _is_token(c) else " " for c in plain).split())
