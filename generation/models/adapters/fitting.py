"""Whether a change fits the weight of its layer, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch

from .adapter import Change
from .layouts import DOWN, MAGNITUDE, UP

_LORA: Final = frozenset({DOWN, UP})
_LOHA: Final = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
_TUCKER: Final = frozenset({"hada_t1", "hada_t2"})
_MATRIX: Final = 2
# The dimensions of a weight that a LoRA can change: a matrix, or a convolution's.
_DIMENSIONS: Final = (2, 4)


def fitted(change: Change, weight: torch.Size) -> Change | None:
    """Return a change with its tensors in the shapes that peft wants for a weight, or None.

    None says that a tensor is missing, superfluous, or of a shape that does not fit.
    """
    if len(weight) not in _DIMENSIONS or not change.tensors:
        return None
    if any(not tensor.numel() or not tensor.ndim for tensor in change.tensors.values()):
        return None
    fit = {"lora": _fit_lora, "loha": _fit_loha, "lokr": _fit_lokr}[change.kind]
    tensors = fit(change.tensors, weight)
    return None if tensors is None else Change(tensors, change.alpha)


def _fit_lora(
    tensors: Mapping[str, torch.Tensor], weight: torch.Size
) -> dict[str, torch.Tensor] | None:
    if tensors.keys() - {MAGNITUDE} != _LORA:
        return None
    down, up = tensors[DOWN], tensors[UP]
    rank, rows = len(down), weight[0]
    # A matrix may be stored as a convolution of one pixel, and the other way round.
    if tuple(down.shape[1:2]) != tuple(weight[1:2]) or down.numel() != rank * math.prod(weight[1:]):
        return None
    if tuple(up.shape[:2]) != (rows, rank) or up.numel() != rows * rank:
        return None
    ones = [1] * (len(weight) - 2)
    found = {DOWN: down.reshape(rank, *weight[1:]), UP: up.reshape(rows, rank, *ones)}
    if MAGNITUDE not in tensors:
        return found
    magnitude = tensors[MAGNITUDE]
    # The norms of a weight's rows. LyCORIS can store those of columns, which peft does not have.
    leading = magnitude.shape[0] if magnitude.ndim <= _MATRIX else magnitude.shape[1]
    if leading != rows or magnitude.numel() != rows:
        return None
    return found | {MAGNITUDE: magnitude.reshape([1, rows, *ones] if ones else [rows])}


def _fit_loha(
    tensors: Mapping[str, torch.Tensor], weight: torch.Size
) -> dict[str, torch.Tensor] | None:
    is_tucker = tensors.keys() == _LOHA | _TUCKER
    if not is_tucker and tensors.keys() != _LOHA:
        return None
    columns = weight[1] if is_tucker else math.prod(weight[1:])
    for number in "12":
        first, second = tensors[f"hada_w{number}_a"], tensors[f"hada_w{number}_b"]
        rank = second.shape[0]
        rows = (rank, weight[0]) if is_tucker else (weight[0], rank)
        if tuple(first.shape) != rows or tuple(second.shape) != (rank, columns):
            return None
        if is_tucker and tuple(tensors[f"hada_t{number}"].shape) != (rank, rank, *weight[2:]):
            return None
    return dict(tensors)


def _fit_lokr(
    tensors: Mapping[str, torch.Tensor], weight: torch.Size
) -> dict[str, torch.Tensor] | None:
    if "lokr_t2" in tensors:
        return None
    left, right = _factor(tensors, "lokr_w1"), _factor(tensors, "lokr_w2")
    if left is None or right is None or len(left) != _MATRIX:
        return None
    columns = left[1] * math.prod(right[1:])
    if left[0] * right[0] != weight[0] or columns != math.prod(weight[1:]):
        return None
    return dict(tensors)


def _factor(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    """Return the shape of a factor of a LoKr, which is whole or the product of two matrices."""
    if name in tensors:
        return tuple(tensors[name].shape)
    first, second = tensors.get(f"{name}_a"), tensors.get(f"{name}_b")
    if first is None or second is None or first.ndim != _MATRIX or second.ndim != _MATRIX:
        return None
    return (first.shape[0], second.shape[1]) if first.shape[1] == second.shape[0] else None
