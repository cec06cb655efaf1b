"""Seeded noise: drawn on the CPU in float32, so that no device changes a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def generator(seed: int) -> torch.Generator:
    """Return the CPU generator of one image; all its draws come from here, in order."""
    return torch.Generator("cpu").manual_seed(seed)


def draw(source: torch.Generator, shape: Sequence[int]) -> torch.Tensor:
    """Return standard normal noise, float32 on the CPU.

    Draws in half precision and draws on a GPU give other numbers for the same seed. So noise is
    always drawn here, and the caller casts and moves the result.
    """
    return torch.randn(tuple(shape), generator=source, dtype=torch.float32)
