"""A weight with LoRAs merged in; what each kind computes is peft's arithmetic.

The result is always made from the weight as it was loaded. Nothing is ever taken out of a weight by
subtraction, which would leave other last bits.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig
from peft.tuners.loha import layer as loha
from peft.tuners.lokr import layer as lokr
from peft.tuners.lora import layer as lora
from torch import nn

from ...errors import LoraError
from .adapter import Change
from .layouts import DOWN, MAGNITUDE, UP

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
    is_matrix = weight.ndim == _MATRIX
    base = _with_weight(_plain(is_matrix), weight.detach().to(torch.float32, copy=True))
    for change, strength in changes:
        layer = _layer(change.kind, is_matrix=is_matrix, is_dora=MAGNITUDE in change.tensors)
        _set_tensors(layer, change, base.weight.device)
        layer.scaling[_NAME] = strength * change.scale
        layer.base_layer = base
        layer.merged_adapters.clear()
        try:
            layer.merge(safe_merge=True, adapter_names=[_NAME])
        except ValueError as error:
            raise _overflow() from error
        finally:
            layer.base_layer = _plain(is_matrix)
    merged: torch.Tensor = base.weight.data.to(weight.dtype)
    if not bool(torch.isfinite(merged).all()):
        raise _overflow()
    return merged


def _overflow() -> LoraError:
    return LoraError("The numbers overflow with these LoRAs; use smaller weights for them.")


@cache
def _plain(is_matrix: bool) -> Any:
    """Return the smallest layer of a kind; making one for each weight would take longest of all."""
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(1, 1, bias=False) if is_matrix else nn.Conv2d(1, 1, 1, bias=False)


def _with_weight(plain: Any, weight: torch.Tensor) -> Any:
    copied = copy.copy(plain)
    copied._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
    return copied


@cache
def _layer(kind: str, *, is_matrix: bool, is_dora: bool) -> Any:
    """Return a layer of peft, in which tensors and the layer below are replaced for each merge."""
    base = _plain(is_matrix)
    with torch.random.fork_rng(devices=[]):
        if kind == "lora":
            make = lora.Linear if is_matrix else lora.Conv2d
            config = LoraConfig(r=1, use_dora=is_dora)
            return make(base, _NAME, config=config, r=1, lora_alpha=1)
        if kind == "loha":
            make_loha = loha.Linear if is_matrix else loha.Conv2d
            return make_loha(base, _NAME, LoHaConfig(r=1, alpha=1), r=1, alpha=1)
        make_lokr = lokr.Linear if is_matrix else lokr.Conv2d
        return make_lokr(base, _NAME, LoKrConfig(r=1, alpha=1), r=1, alpha=1)


def _set_tensors(layer: Any, change: Change, device: torch.device) -> None:
    if change.kind != "lora":
        for name in layer.adapter_layer_names:
            getattr(layer, name).clear()
    for name, tensor in change.tensors.items():
        placed = nn.Parameter(tensor.to(device, torch.float32), requires_grad=False)
        if name in (DOWN, UP, MAGNITUDE):
            getattr(layer, name)[_NAME].weight = placed
        else:
            getattr(layer, name)[_NAME] = placed
