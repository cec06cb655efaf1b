"""Weights that are stored in fewer bits than they are computed with."""

from __future__ import annotations

import torch


def is_quantized(weight: torch.Tensor) -> bool:
    """Return whether a weight from a .gguf file holds blocks of bytes."""
    return hasattr(weight, "quant_type")


def dequantized(weight: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a weight, in the type in which the library computes them."""
    if not is_quantized(weight):
        return weight
    # It needs the library gguf, which is there if there is such a weight.
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor  # noqa: PLC0415

    numbers: torch.Tensor = dequantize_gguf_tensor(weight)
    return numbers
