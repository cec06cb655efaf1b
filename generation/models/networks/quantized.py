"""Weights that are stored in fewer bits than they are computed with.

Weights in 8 bits are optimum-quanto's: each row of a matrix has a scale of its own, and the inputs
of a layer are not quantised. So a row of a call does not depend on the others. It would with
bitsandbytes, which looks for outliers in all rows together (https://arxiv.org/abs/2208.07339).
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch
from torch import nn

from ...errors import ModelError


def is_quantized(weight: torch.Tensor) -> bool:
    """Return whether a weight from a .gguf file holds blocks of bytes."""
    return hasattr(weight, "quant_type")


def dequantized(weight: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a weight, in the type in which the library computes them."""
    numbers: torch.Tensor = weight
    if is_quantized(weight):
        # It needs the library gguf, which is there if there is such a weight.
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor  # noqa: PLC0415

        numbers = dequantize_gguf_tensor(weight)
    elif _is_quanto(weight):
        numbers = weight.dequantize()
    return numbers


def _is_quanto(weight: torch.Tensor) -> bool:
    # The library takes seconds to load, and without it there is no such weight.
    quanto: Any = sys.modules.get("optimum.quanto")
    return quanto is not None and isinstance(weight, quanto.QTensor)


def store_in_int8(network: nn.Module) -> None:
    """Store the matrices of a network's linear layers in 8 bits; `network` is changed in place.

    Raises:
        ModelError: the library is not installed.
    """
    if importlib.util.find_spec("optimum.quanto") is None:
        raise ModelError(
            'quantize = "int8" needs the library optimum-quanto, which is not installed; install '
            "it with pip install 'imagine-bot[small]'."
        )
    from optimum.quanto import freeze, qint8, quantize  # noqa: PLC0415

    linear = [name for name, layer in network.named_modules() if type(layer) is nn.Linear]
    # What overflows in float16 is computed in float32 later, and the type of such weights is fixed.
    precise = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    chosen = [name for name in linear if precise.isdisjoint(name.split("."))]
    quantize(network, weights=qint8, include=chosen)
    freeze(network)
    network.eval().requires_grad_(False)
