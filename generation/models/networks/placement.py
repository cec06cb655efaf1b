"""Networks on their device, or in main memory until they compute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch import nn

from ...catalog.profile import ModelProfile
from ...errors import ModelError, ModelTooLarge
from . import deterministic
from .building import made_from

_MAIN_MEMORY = torch.device("cpu")


def settle(
    networks: dict[str, Any],
    profile: ModelProfile,
    device: torch.device,
    *,
    vector_layers: Mapping[str, Collection[str]],
    unpacked: Collection[str] = (),
) -> None:
    """Prepare the networks of a model, and bring them to `device` or leave them in main memory.

    The parts in `vector_layers` are prepared by `deterministic.prepare` with these layers. Those in
    `unpacked` keep plain convolutions. The profile says whether networks stay in main memory.

    Raises:
        ModelTooLarge: the networks do not fit into the memory of the device; none stays there.
        ModelError: the config of a part makes no network, or quantised weights would be split.
    """
    offload = profile.savings.offload
    if offload == "none":
        place(networks, device)
    elif offload == "sequential" and profile.quantization is not None:
        raise ModelError(
            f"The model {profile.name} is quantised, so its layers cannot be offloaded one by one; "
            'set offload = "model".'
        )
    for part, layers in vector_layers.items():
        # A constructor of torch accepts a padding or stride that is no number; this does not.
        with made_from(part, profile.folder / part / "config.json"):
            deterministic.prepare(
                networks[part], device, vector_layers=layers, pack=part not in unpacked
            )
    if offload == "model":
        bring_one_at_a_time(networks.values(), device)
    elif offload == "sequential":
        for network in networks.values():
            cpu_offload(network, execution_device=device)


def place(networks: dict[str, Any], device: torch.device) -> None:
    """Move the networks to `device`.

    Raises:
        ModelTooLarge: the networks do not fit into the memory of the device; none stays there.
    """
    if not _moved(networks, device):
        # The error must not keep networks on the device alive: others need the memory.
        networks.clear()
        raise ModelTooLarge(
            f"The model does not fit into the memory of {device}; use float16 or a smaller model, "
            'or set offload = "model".'
        )


def _moved(networks: dict[str, Any], device: torch.device) -> bool:
    """Move the networks to `device`, and return whether they fit."""
    try:
        for network in networks.values():
            network.to(device)
    except torch.OutOfMemoryError:
        return False
    return True


def bring_one_at_a_time(networks: Collection[nn.Module], device: torch.device) -> None:
    """Let each network come to `device` when it computes, and leave when another one computes.

    So the text encoder leaves when the denoiser computes, and the decoder comes when it is wanted.
    """
    for network in networks:
        others = [other for other in networks if other is not network]
        add_hook_to_module(network.to(_MAIN_MEMORY), _ComesAlone(device, others))


class _ComesAlone(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """Brings a network to a device before it computes, after the others have left the device."""

    def __init__(self, device: torch.device, others: Collection[nn.Module]) -> None:
        self.execution_device = device
        self._others = others

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments of the call, on the device.

        Raises:
            torch.OutOfMemoryError: the network does not fit; no part of the network stays there.
        """
        if not _is_on(module, self.execution_device):
            for other in self._others:
                if not _is_on(other, _MAIN_MEMORY):
                    other.to(_MAIN_MEMORY)
            try:
                module.to(self.execution_device)
            except BaseException:
                # The weights that had moved would stay there, and the next call would not move the
                # other weights.
                module.to(_MAIN_MEMORY)
                raise
        return (
            send_to_device(args, self.execution_device),
            send_to_device(kwargs, self.execution_device),
        )


def _is_on(network: nn.Module, device: torch.device) -> bool:
    return next(network.parameters()).device == device


def computing_device(network: Any) -> torch.device:
    """Return the device on which a network computes, wherever its weights are meanwhile."""
    # A network that is offloaded by layers has hooks at its layers, some of them several.
    hooks = (getattr(module, "_hf_hook", None) for module in network.modules())
    for hook in hooks:
        for single in getattr(hook, "hooks", (hook,)):
            found: torch.device | None = getattr(single, "execution_device", None)
            if found is not None:
                return found
    device: torch.device = network.device
    return device
