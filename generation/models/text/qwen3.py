"""Qwen3 as a text encoder: its network, its chat format, and its hidden states.

Z-Image and FLUX.2 klein read texts with it. Both give the text as what a user says in a chat, and
both take hidden states from layers before the last one.

The network: Qwen3 Technical Report, https://arxiv.org/abs/2505.09388. The chat format: the template
in `tokenizer_config.json` of https://huggingface.co/Qwen/Qwen3-4B. The format is written here,
because a template from a file is a program from a stranger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from ..networks.placement import computing_device
from .tokens import TokenizedPrompt

PADDING: Final = -1
"""Stands for padding among the ids of a text; no token has this number."""

_BEFORE: Final = "<|im_start|>user\n"
_AFTER: Final = "<|im_end|>\n<|im_start|>assistant\n"
_NO_THOUGHTS: Final = "<think>\n\n</think>\n\n"
# Keys of the encoder's config that change what it computes.
_KEYS: Final = (
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "vocab_size",
)
_THETA: Final = "rope_theta"


def text_encoder(config: Mapping[str, Any], *, depth: int | None = None) -> Any:
    """Return an encoder with random weights from its config, without a head for words.

    With `depth` the encoder has only its first layers, and no norm after them: the other weights
    are not needed where no state after a deeper layer is read.

    Raises:
        ValueError: the encoder's positions are scaled or unknown, or its attention has a window.
    """
    # transformers 5 writes `rope_parameters`; before, there were `rope_theta` and `rope_scaling`.
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"its rope_type is {str(kind)[:40]!r} and not 'default'")
    if config.get("use_sliding_window"):
        raise ValueError("its attention has a sliding window")
    theta = rope.get(_THETA, config.get(_THETA))
    if theta is None:
        raise ValueError(f"it has no {_THETA}")
    values = {key: config[key] for key in _KEYS if key in config}
    if depth is not None:
        values["num_hidden_layers"] = depth
    encoder = Qwen3Model(
        Qwen3Config(**values, rope_parameters={"rope_type": "default", _THETA: float(theta)})
    )
    if depth is not None:
        encoder.norm = nn.Identity()
    return encoder


def chat(prompt: str, *, thinking: bool) -> str:
    """Return `prompt` as the message of a user, up to where the assistant's answer starts.

    Without `thinking` the answer starts with empty thoughts, so that it holds no others.
    """
    return f"{_BEFORE}{prompt}{_AFTER}{'' if thinking else _NO_THOUGHTS}"


def tokenize(tokenizer: Any, prompt: str, limit: int, *, thinking: bool) -> TokenizedPrompt:
    """Return a prompt in its chat as `limit` ids, filled up with `PADDING`.

    What does not fit is cut, as in diffusers' pipelines. `unread` is the part of the prompt that
    was cut.
    """
    # A verbose tokenizer warns of too many tokens, but the model never gets those.
    whole = tokenizer(chat(prompt, thinking=thinking), return_offsets_mapping=True, verbose=False)
    ids = whole.input_ids[:limit]
    unread = ""
    if len(whole.input_ids) > limit:
        end = whole.offset_mapping[limit][0] - len(_BEFORE)
        unread = prompt[max(end, 0) :].strip()
    return TokenizedPrompt((*ids, *[PADDING] * (limit - len(ids))), unread)


@dataclass(frozen=True, slots=True, eq=False)
class HiddenStates:
    """The hidden states of texts after some layers, each [texts, tokens, width].

    `is_read` [texts, tokens], on the CPU, is False where a text is padded.
    """

    layers: Sequence[torch.Tensor]
    is_read: torch.Tensor


def hidden_states(
    encoder: Any, prompts: Sequence[tuple[int, ...]], layers: Sequence[int], *, padding_id: int
) -> HiddenStates:
    """Return the states of `encoder` after each of `layers`; 0 is before the first, -1 the last.

    All `prompts` have the same number of ids. The encoder sees `padding_id` in place of `PADDING`.
    """
    ids = torch.tensor(prompts)
    is_read = ids != PADDING
    device = computing_device(encoder)
    states = encoder(
        input_ids=ids.masked_fill(~is_read, padding_id).to(device),
        attention_mask=is_read.to(device),
        # Otherwise the states of all layers are kept, which for many texts is a gigabyte.
        output_hidden_states=list(layers),
        use_cache=False,
    ).hidden_states
    return HiddenStates([states[layer] for layer in layers], is_read)
