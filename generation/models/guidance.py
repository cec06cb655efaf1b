"""Classifier-free guidance: Ho and Salimans 2022, https://arxiv.org/abs/2207.12598."""

from __future__ import annotations

import torch


def guide(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Return `u + s * (c - u)`: the prediction, pushed away from the negative prompt.

    It is equation 6 of Ho and Salimans with `s = 1 + w`.
    """
    return unconditional + scale * (conditional - unconditional)
