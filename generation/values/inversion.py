"""Textual inversions: learned vectors that stand for a word of a prompt.

The paper: Gal et al. 2022, https://arxiv.org/abs/2208.01618. A1111 calls the files embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidRequest

INVERSIONS_MAX: Final = 16
INVERSION_NAME_LENGTH: Final = 100


@dataclass(frozen=True, slots=True)
class Inversion:
    """A textual inversion by its name, which is the word in the prompt.

    With a `sha256` only a file with this hash will do; without it, whatever has the name now.

    Raises:
        InvalidRequest: the name is empty or too long.
    """

    name: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= INVERSION_NAME_LENGTH:
            raise InvalidRequest(
                "embeddings",
                f"The name of an embedding has 1 to {INVERSION_NAME_LENGTH} characters; shorten "
                "it.",
            )


def named_in(texts: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """Return those of `names` that stand in one of `texts` as a word, in capitals or not."""
    if not names:
        return ()
    by_word = {name.casefold(): name for name in names}
    matches = (match for text in texts for match in _pattern(names).finditer(text))
    return tuple(dict.fromkeys(by_word[_word(match).casefold()] for match in matches))


def replaced(text: str, names: Collection[str], word: Callable[[str], str]) -> str:
    """Return `text` with what `word` returns in place of each of `names`."""
    if not names:
        return text
    by_word = {name.casefold(): name for name in names}
    return _pattern(names).sub(lambda match: word(by_word[_word(match).casefold()]), text)


def _word(match: re.Match[str]) -> str:
    return match[0].removeprefix("<").removesuffix(">") if match[0].startswith("<") else match[0]


def _pattern(names: Collection[str]) -> re.Pattern[str]:
    """Return what finds the names as words, also in angle brackets; the longest name counts."""
    ways = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"<(?:{ways})>|(?<!\w)(?:{ways})(?!\w)", re.IGNORECASE)


def check_inversions(inversions: Sequence[Inversion]) -> None:
    """Check the textual inversions of a request.

    Raises:
        InvalidRequest: there are too many, or one is there twice.
    """
    if len(inversions) > INVERSIONS_MAX:
        raise InvalidRequest(
            "embeddings",
            f"The prompts name {len(inversions)} embeddings; use at most {INVERSIONS_MAX}.",
        )
    if len({inversion.name.casefold() for inversion in inversions}) < len(inversions):
        raise InvalidRequest("embeddings", "An embedding is named twice; name each one once.")
