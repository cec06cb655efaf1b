"""Memory of a device that runs out, and that is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


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


def release(device: torch.device) -> None:
    """Give memory that no tensor uses back to the device.

    Drop the traceback of an error before: its frames keep tensors alive.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
