"""Networks on their device."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import ModelTooLarge


def place(networks: dict[str, Any], device: torch.device) -> None:
    """Move the networks to `device`.

    Raises:
        ModelTooLarge: the networks do not fit into the memory of the device; none stays there.
    """
    if not _moved(networks, device):
        # The error must not keep networks on the device alive: others need the memory.
        networks.clear()
        raise ModelTooLarge(
            f"The model does not fit into the memory of {device}; use float16 or a smaller model."
        )


def _moved(networks: dict[str, Any], device: torch.device) -> bool:
    """Move the networks to `device`, and return whether they fit."""
    try:
        for network in networks.values():
            network.to(device)
    except torch.OutOfMemoryError:
        return False
    return True
