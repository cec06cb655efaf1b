"""Networks that are compiled for each shape at the first call with that shape."""

from __future__ import annotations

from typing import Any

import torch


def compile_network(network: Any, device: torch.device) -> Any:
    """Return a compiled form of `network`, which shares its weights."""
    if device.type == "cpu":
        from torch._inductor import config  # noqa: PLC0415 - it takes a second to import

        # Packs the weights and folds what is constant; it is for inference only.
        config.freezing = True
    return torch.compile(network, dynamic=False)
