"""From text to token ids, and the part of the text that the model does not read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ...values.spelling import fold, without_accents, without_marks

_WORD: Final = re.compile(r"\S+")
_OTHER: Final = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """Token ids of exactly the model's length, and the part of the text without a token."""

    ids: tuple[int, ...]
    unread: str


def tokenize(
    tokenizer: Any,
    text: str,
    limit: int,
    prompt_limit: int | None = None,
    *,
    keeps_unknown: bool = False,
) -> TokenizedPrompt:
    """Return `text` as `limit` token ids, start and end marks and padding included.

    Unknown text is left out, since CLIP's token for unknown text is the token that ends a text.
    A letter with an unknown mark is read without the mark. With `keeps_unknown` unknown text stays,
    as before version 0.2, to make old pictures again.

    The text and its marks fill at most the first `prompt_limit` ids, or all. Text that does not fit
    is cut, as in diffusers' pipeline. `unread` is the text that was left out, then the text that
    was cut.
    """
    lost: list[tuple[int, str]] = []
    if not keeps_unknown:
        text, lost = _known(tokenizer, text)
    most = limit if prompt_limit is None else prompt_limit
    ids = tokenizer(text, padding="max_length", max_length=most, truncation=True).input_ids
    ids += [tokenizer.pad_token_id] * (limit - most)
    whole = _encode(tokenizer, text)
    room = most - 2
    fits = len(whole.input_ids) <= room
    end = len(text) if fits else whole.offset_mapping[room][0]
    left_out = dict.fromkeys(piece for position, piece in lost if position <= end)
    unread = " ".join(piece for piece in [*left_out, text[end:].strip()] if piece)
    return TokenizedPrompt(tuple(ids), unread)


def _encode(tokenizer: Any, text: str) -> Any:
    # A verbose tokenizer warns of too many tokens, but the model never gets those.
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def _known(tokenizer: Any, text: str) -> tuple[str, list[tuple[int, str]]]:
    """Return the known part of `text`, and each unknown part with its position in the known one."""
    text = without_marks(text)
    vocabulary = _Vocabulary(tokenizer)
    if not vocabulary.lacks(text):
        return text, []
    kept, lost = "", list[tuple[int, str]]()
    position = 0
    for word in _WORD.finditer(text):
        readable = vocabulary.readable(word[0])
        if missing := _missing(word[0], readable):
            lost.append((len(kept), missing))
        if readable:
            kept += text[position : word.start()] + readable
        position = word.end()
    return kept, lost


def _forms(word: str) -> Iterator[str]:
    """Yield forms of a word that keep less and less of the word."""
    yield word
    yield fold(word)
    plain = without_accents(fold(word))
    yield plain
    # Letters of elsewhere leave no gap; a sign such as a bullet stands between two words.
    kept = (char if char.isascii() else "" if char.isalnum() else " " for char in plain)
    yield " ".join("".join(kept).split())
    yield " ".join(_OTHER.sub(" ", plain).split())


def _missing(word: str, readable: str) -> str:
    """Return the characters of `word` that `readable` lacks; marks and punctuation do not count."""
    if not readable:
        missing = word
    else:
        seen = set(without_accents(fold(readable)))
        missing = "".join(char for char in word if not set(without_accents(fold(char))) <= seen)
    return missing if any(map(_says_something, fold(missing))) else ""


def _says_something(char: str) -> bool:
    """Return whether a character says something: punctuation and plain symbols do not."""
    return char.isalnum() or not (char.isascii() or unicodedata.category(char).startswith("P"))


class _Vocabulary:
    """What a tokenizer has tokens for.

    Each character and each word is looked up once: a prompt may be one word two thousand times, and
    the engine waits meanwhile.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lacking: dict[str, bool] = {}
        self._readable: dict[str, str] = {}

    def lacks(self, text: str) -> bool:
        """Return whether there is no token for a part of the text.

        Inside a word there may be some for the bytes of a character that the tokenizer never saw,
        which it does not know as a word of its own.
        """
        signs = {char for char in text if not char.isascii() and not char.isspace()}
        return any(map(self._lacks, signs)) or self._lacks(text)

    def _lacks(self, part: str) -> bool:
        if part not in self._lacking:
            ids = _encode(self._tokenizer, part).input_ids
            self._lacking[part] = self._tokenizer.unk_token_id in ids
        return self._lacking[part]

    def readable(self, word: str) -> str:
        """Return as much of a word as the tokenizer knows."""
        if word not in self._readable:
            known = (form for form in _forms(word) if not self.lacks(form))
            self._readable[word] = next(known, "")
        return self._readable[word]
