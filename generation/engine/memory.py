"""Memory of a device that runs out, and that is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import psutil
import torch

T = TypeVar("T")


class DropOther(Protocol):
    """Drops another model that is in the memory of the device."""

    def __call__(self, *, only_idle: bool) -> bool:
        """Drop a model, and return False if there is none; with `only_idle` one without images."""


class Room:
    """The memory that a model shares with other models; `drop_other` makes one of them leave."""

    def __init__(self) -> None:
        self.drop_other: DropOther = _no_other


def _no_other(*, only_idle: bool) -> bool:
    """Return False: without a pool there is no other model."""
    del only_idle
    return False


def attempt(call: Callable[[], T], device: torch.device) -> T | None:
    """Return the result of `call`, or None if memory ran out; then unused memory is given back."""
    try:
        return call()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # The traceback of the error held the tensors of its frames until here.
    release(device)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory ran out, on an accelerator or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("not enough memory", "out of memory", "can't allocate")
    )


def available(device: torch.device) -> int:
    """Return how many bytes of memory new tensors on `device` can take."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)


def release(device: torch.device) -> None:
    """Give memory that no tensor uses back to the device.

    Drop the traceback of an error before: its frames keep tensors alive.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
