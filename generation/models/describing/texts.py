"""How long the texts of a model may be, and which encoders read textual inversions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ...catalog.configs import Configs, is_size
from ...errors import ModelError
from .facts import Fact

# The start, the end, and one token of text.
_FEWEST_TOKENS: Final = 3
# CLIP has 77; the longest model made from it has 248.
_MOST_TOKENS: Final = 1_024


def texts(tokens: int) -> Fact:
    """Return that a prompt may fill all of so many tokens."""
    return lambda _: {"token_limit": tokens, "prompt_limit": tokens}


def clip_texts(tokenizers: Mapping[str, str]) -> Fact:
    """Return the limits of the text encoders of CLIP, each of which has its tokenizer."""

    def fact(configs: Configs) -> Mapping[str, Any]:
        limits = {clip_limits(configs, *pair) for pair in tokenizers.items()}
        if len(limits) > 1:
            raise ModelError(
                f"The model in {configs.folder} has text encoders for texts of different lengths; "
                "download it again or choose another one."
            )
        [(token_limit, prompt_limit)] = limits
        return {"token_limit": token_limit, "prompt_limit": prompt_limit}

    return fact


def reads_inversions(*encoders: str) -> Fact:
    """Return that these text encoders of CLIP read textual inversions."""
    return lambda configs: {
        "inversion_widths": {
            part: configs.network(part).size("hidden_size", 512) for part in encoders
        }
    }


def clip_limits(configs: Configs, part: str, tokenizer: str) -> tuple[int, int]:
    """Return how many tokens a text has, and how many of them a prompt may fill.

    A prompt may fill all tokens unless the tokenizer's config says `prompt_tokens`: the starter's
    text encoder writes its results over the tokens after those.

    Raises:
        ModelError: a number is wrong.
    """
    text_encoder = configs.network(part)
    positions = text_encoder.size("max_position_embeddings", 77)
    if positions > _MOST_TOKENS:
        raise text_encoder.wrong("max_position_embeddings", f"at most {_MOST_TOKENS:,}")
    if not configs.has(f"{tokenizer}/tokenizer_config.json"):
        return positions, positions
    config = configs.other(f"{tokenizer}/tokenizer_config.json")
    # A tokenizer without a limit of its own says 10**30, as a float in some files.
    limit: Any = config.values.get("model_max_length") or positions
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < _FEWEST_TOKENS:
        raise config.wrong("model_max_length", "a whole number from 1 up")
    limit = int(min(limit, positions))
    filled: Any = config.values.get("prompt_tokens")
    if filled is None:
        return limit, limit
    if not is_size(filled) or not _FEWEST_TOKENS <= filled <= limit:
        raise config.wrong("prompt_tokens", f"a whole number from {_FEWEST_TOKENS} to {limit}")
    return limit, int(filled)
