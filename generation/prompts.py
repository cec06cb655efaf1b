"""From text to token ids, and what of the text did not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_COLORED: Final = "\ufe0f"


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """Token ids of exactly the model's length, and the end of the text that was cut off."""

    ids: tuple[int, ...]
    unread: str


def spell_emoji(text: str, names: Mapping[str, str]) -> str:
    """Return `text` with the name of each emoji in `names` in its place, the longest that fits.

    Variation selectors, which ask for the colored form of a character, are passed over.
    """
    if text.isascii() or not names:
        return text
    plain = text.replace(_COLORED, "")
    longest = max(map(len, names))
    words: list[str] = []
    position = 0
    while position < len(plain):
        lengths = range(min(longest, len(plain) - position), 0, -1)
        ends = (position + length for length in lengths)
        end = next((end for end in ends if plain[position:end] in names), None)
        if end is None:
            words.append(plain[position])
            position += 1
        else:
            words.append(f" {names[plain[position:end]]} ")
            position = end
    return text if plain == "".join(words) else " ".join("".join(words).split())


def tokenize(
    tokenizer: Any, text: str, limit: int, prompt_limit: int | None = None
) -> TokenizedPrompt:
    """Return `text` as `limit` token ids, start and end marks and padding included.

    The text and its marks fill at most the first `prompt_limit` of them, or all. What does not
    fit is cut, as in diffusers' pipeline, but not in silence: `unread` is the part of the text,
    from the first character without a token, that the model cannot see.
    """
    most = limit if prompt_limit is None else prompt_limit
    ids = tokenizer(text, padding="max_length", max_length=most, truncation=True).input_ids
    ids += [tokenizer.pad_token_id] * (limit - most)
    # Not verbose: it would warn that so many tokens break the model, which never sees them.
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    room = most - 2
    if len(whole.input_ids) <= room:
        return TokenizedPrompt(tuple(ids), "")
    first_cut = whole.offset_mapping[room][0]
    return TokenizedPrompt(tuple(ids), text[first_cut:].strip())
