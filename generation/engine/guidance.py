"""Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598)."""

from __future__ import annotations

import torch


def is_guided(scale: float) -> bool:
    """Return whether `scale` needs the unconditional prediction at all: only above 1."""
    return scale > 1.0


def guide(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Return `u + s * (c - u)`, the noise prediction pushed away from the negative prompt."""
    return unconditional + scale * (conditional - unconditional)
