"""How far a schedule of flow matching moves towards noise for a picture's size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# What diffusers' scheduler takes where a config says nothing.
_DEFAULTS: Final = {
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}


def shift_of(tokens: int, config: Mapping[str, Any]) -> float:
    """Return the shift `mu` for a picture of so many tokens, by the config of a scheduler.

    It is `calculate_shift` of diffusers' pipelines: linear in the number of tokens. A scheduler
    whose shift is fixed leaves `mu` alone.
    """
    known = {key: value for key, value in config.items() if value is not None}
    found = {key: known.get(key, usual) for key, usual in _DEFAULTS.items()}
    few, many = found["base_image_seq_len"], found["max_image_seq_len"]
    slope = (found["max_shift"] - found["base_shift"]) / (many - few)
    return float(tokens * slope + (found["base_shift"] - slope * few))
