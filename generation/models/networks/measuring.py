"""How much memory a computation takes, measured on shapes alone: without numbers, without a device.

Tensors on torch's device "meta" have shapes and no numbers, so a computation on them takes no time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes that the results in a computation on "meta" take at the same time.

    What a kernel takes for itself, for example for attention, is not in it.
    """
    peak = _Peak()
    with torch.no_grad(), _AttentionWithoutMatrix(), peak:
        call()
    return peak.most


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Counts the bytes of the tensors that are made inside, and are still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.most = 0
        self._now = 0
        # The tensors that share a storage, and its bytes.
        self._storages: dict[int, tuple[int, int]] = {}
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        del types
        result: object = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and id(leaf) not in self._known:
                self._count(leaf)
        self.most = max(self.most, self._now)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        tensors, size = self._storages.get(key, (0, storage.nbytes()))
        if not tensors:
            self._now += size
        self._storages[key] = (tensors + 1, size)
        self._known.add(id(tensor))
        weakref.finalize(tensor, self._forget, key, id(tensor)).atexit = False

    def _forget(self, key: int, identity: int) -> None:
        self._known.discard(identity)
        tensors, size = self._storages.pop(key)
        if tensors > 1:
            self._storages[key] = (tensors - 1, size)
        else:
            self._now -= size


class _AttentionWithoutMatrix(TorchFunctionMode):
    """Computes attention as the kernels of a GPU do, which hold no matrix of all pairs."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        del types
        if func is functional.scaled_dot_product_attention:
            query, _, value = args[:3] if len(args) > 2 else _named(args, kwargs)  # noqa: PLR2004
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


def _named(args: tuple[Any, ...], kwargs: Any) -> tuple[Any, Any, Any]:
    names = ("query", "key", "value")
    query, key, value = [*args, *(kwargs[name] for name in names[len(args) :])]
    return query, key, value
