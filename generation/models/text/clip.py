"""CLIP's text encoders, from their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

# Keys of a text encoder's config that change what it computes or that this engine asks for.
_KEYS: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def text_encoder(config: Mapping[str, Any]) -> Any:
    """Return an encoder with random weights from its config."""
    return CLIPTextModel(_config(config))


def projected_text_encoder(config: Mapping[str, Any]) -> Any:
    """Return an encoder with random weights that also projects the state at the end of a text."""
    return CLIPTextModelWithProjection(_config(config))


def _config(config: Mapping[str, Any]) -> CLIPTextConfig:
    return CLIPTextConfig(**{key: config[key] for key in _KEYS if key in config})
