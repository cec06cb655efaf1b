"""A weight with LoRAs merged in; what each kind computes is peft's arithmetic.

The result is always made from the weight as it was loaded. Nothing is ever taken out of a weight by
subtraction, which would leave other last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig
from peft.tuners.loha import layer as loha
from peft.tuners.lokr import layer as lokr
from peft.tuners.lora import layer as lora
from torch import nn

from ...errors import LoraError
from .adapter import DOWN, MAGNITUDE, UP, Change

_NAME: Final = "lora"
_MATRIX: Final = 2


def merge(weight: torch.Tensor, changes: Sequence[tuple[Change, float]]) -> torch.Tensor:
    """Return `weight` with changes merged in, each with its strength; `weight` stays as it is.

    It is computed in float32 on the device of the weight, and returned in the type of the weight.
    For a LoRA it is `W + strength * alpha / rank * B A` (https://arxiv.org/abs/2106.09685,
    section 4.1).

    Raises:
        LoraError: a number overflows.
    """
    base = _carrier(weight)
    with torch.random.fork_rng(devices=[]):
        for change, strength in changes:
            layer = _layer(base, change, strength)
            try:
                layer.merge(safe_merge=True, adapter_names=[_NAME])
            except ValueError as error:
                raise _overflow() from error
    merged: torch.Tensor = base.weight.data.to(weight.dtype)
    if not bool(torch.isfinite(merged).all()):
        raise _overflow()
    return merged


def _overflow() -> LoraError:
    return LoraError("The numbers overflow with these LoRAs; use smaller weights for them.")


def _carrier(weight: torch.Tensor) -> Any:
    """Return a layer with a copy of `weight` in float32; strides and bias do not matter here."""
    rows, columns, *kernel = weight.shape
    with torch.device("meta"):
        base: Any = (
            nn.Conv2d(columns, rows, (kernel[0], kernel[1]), bias=False)
            if kernel
            else nn.Linear(columns, rows, bias=False)
        )
    copied = weight.detach().to(torch.float32, copy=True)
    base.weight = nn.Parameter(copied, requires_grad=False)
    return base


def _layer(base: Any, change: Change, strength: float) -> Any:
    """Return the layer of peft over `base`; its tensors are those of the change.

    The layer is made with rank 1, since its own tensors are replaced.
    """
    is_matrix = base.weight.ndim == _MATRIX
    tensors = {
        name: tensor.to(base.weight.device, torch.float32)
        for name, tensor in change.tensors.items()
    }
    if change.kind == "lora":
        layer = _lora(base, tensors, is_matrix=is_matrix)
    else:
        kind, config = (loha, LoHaConfig) if change.kind == "loha" else (lokr, LoKrConfig)
        make = kind.Linear if is_matrix else kind.Conv2d
        layer = make(base, _NAME, config(r=1, alpha=1), r=1, alpha=1)
        for name in layer.adapter_layer_names:
            getattr(layer, name).pop(_NAME, None)
        for name, tensor in tensors.items():
            getattr(layer, name)[_NAME] = nn.Parameter(tensor, requires_grad=False)
    layer.scaling[_NAME] = strength * change.scale
    return layer


def _lora(base: Any, tensors: dict[str, torch.Tensor], *, is_matrix: bool) -> Any:
    config = LoraConfig(r=1, use_dora=MAGNITUDE in tensors)
    make = lora.Linear if is_matrix else lora.Conv2d
    layer = make(base, _NAME, config=config, r=1, lora_alpha=1)
    for name, tensor in tensors.items():
        if name == MAGNITUDE:
            layer.lora_magnitude_vector[_NAME].weight = nn.Parameter(tensor, requires_grad=False)
        elif name in (DOWN, UP):
            getattr(layer, name)[_NAME].weight = nn.Parameter(tensor, requires_grad=False)
    return layer
