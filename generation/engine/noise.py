"""Seeded noise: drawn on the CPU in float32, so that no device changes a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def generator(seed: int) -> torch.Generator:
    """Return the CPU generator of one image; all its draws come from here, in order."""
    return torch.Generator("cpu").manual_seed(seed)


def draw(source: torch.Generator, shape: Sequence[int]) -> torch.Tensor:
    """Return standard normal noise, float32 on the CPU.

    Half-precision draws and GPU draws give other numbers for the same seed, so the result
    is cast and moved by the caller, never drawn anywhere else.
    """
    return torch.randn(tuple(shape), generator=source, dtype=torch.float32)
