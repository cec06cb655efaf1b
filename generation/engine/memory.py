"""Memory of a device that runs out, and that is given back."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory ran out, on an accelerator or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("not enough memory", "out of memory", "can't allocate")
    )


def release(device: torch.device) -> None:
    """Give the memory that nothing holds any more back to the device.

    The traceback of an error has to be dropped before, or its frames hold the tensors.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
