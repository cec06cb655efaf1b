"""T5's encoder: its network, its tokens, and its states.

The network: Raffel et al. 2019, https://arxiv.org/abs/1910.10683, in version 1.1 with gated layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from transformers import T5Config, T5EncoderModel

from ...errors import ModelError
from .tokenizing import panics_as_errors
from .tokens import TokenizedPrompt

# Keys of the encoder's config that change what it computes.
_KEYS: Final = (
    "d_ff",
    "d_kv",
    "d_model",
    "feed_forward_proj",
    "layer_norm_epsilon",
    "num_heads",
    "num_layers",
    "relative_attention_max_distance",
    "relative_attention_num_buckets",
    "vocab_size",
)


class TextEncoder(T5EncoderModel):  # type: ignore[misc]  # transformers has no types for it
    """An encoder whose tokens are looked up in `shared` alone, under which files have them."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.encoder.embed_tokens = None

    def forward(self, ids: torch.Tensor) -> Any:
        """Return the result of transformers' encoder for ids [texts, tokens]."""
        return self.encoder(inputs_embeds=self.shared(ids))


def text_encoder(config: Mapping[str, Any]) -> Any:
    """Return an encoder with random weights from its config."""
    return TextEncoder(T5Config(**{key: config[key] for key in _KEYS if key in config}))


def keep_from_overflow(encoder: Any) -> None:
    """Compute in float32 what overflows in float16, as transformers does."""
    for name, module in encoder.named_modules():
        if name.endswith(".wo") and module.weight.dtype == torch.float16:
            module.float()


def tokenize(tokenizer: Any, text: str, limit: int) -> TokenizedPrompt:
    """Return `text` as `limit` ids, its end mark and padding included; what does not fit is cut.

    Raises:
        ModelError: the tokenizer's table of characters is broken.
    """
    try:
        with panics_as_errors():
            # A verbose tokenizer warns of too many tokens, but the model never gets those.
            whole = tokenizer(text, return_offsets_mapping=True, verbose=False)
    except ValueError as error:
        raise ModelError(
            "The tokenizer of T5 cannot read this prompt, since its table of characters is broken; "
            "download the model again or choose another one."
        ) from error
    ids, unread = whole.input_ids, ""
    if len(ids) > limit:
        unread = text[whole.offset_mapping[limit - 1][0] :].strip()
        ids = [*ids[: limit - 1], tokenizer.eos_token_id]
    return TokenizedPrompt((*ids, *[tokenizer.pad_token_id] * (limit - len(ids))), unread)


def states(encoder: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the last states of texts, [texts, tokens, width]; padding counts as text."""
    found: torch.Tensor = encoder(ids)[0]
    return found
