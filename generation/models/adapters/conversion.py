"""From other names of a LoRA's tensors to those of diffusers' layers, by diffusers' converters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)

from ...errors import LoraError
from .layouts import split_name

Convert: TypeAlias = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
"""Gives the tensors of a file the names of a model's layers; any error says that it cannot."""

_KOHYA: Final = "lora_unet_"
_COMFY: Final = "diffusion_model."
_DOWN: Final = ".lora_down.weight"
_UP: Final = ".lora_up.weight"
_DORA: Final = ".dora_scale"
_PEFT: Final = ".lora_A"
_UNET: Final = "unet."
_TEXT: Final = ("text_encoder.", "text_encoder_2.")


def convert_unet(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the tensors of a LoRA for a UNet with this config by the names of its layers.

    It reads the names of Stability AI's own UNet (kohya for SDXL, ComfyUI) and of older versions of
    diffusers.

    Raises:
        Exception: a converter knows a name as little.
    """
    splits = {name: split_name(name) for name in tensors}
    layers = _unet_layers({split.layer for split in splits.values() if split is not None}, config)
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        split = splits[name]
        if split is None:
            renamed[_of_older_diffusers(name)] = tensor
        elif split.layer in layers:
            renamed[f"{_UNET}{layers[split.layer]}{name.removeprefix(split.layer)}"] = tensor
        else:
            renamed[name] = tensor
    return renamed


def convert_transformer(
    tensors: Mapping[str, torch.Tensor], loader: Any
) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a LoRA for a transformer by the names of its layers.

    `loader` is the class of diffusers that loads LoRAs into the pipeline of the family.

    Raises:
        LoraError: the LoRA is a DoRA, of which the class would drop a part.
        Exception: the class knows a name as little.
    """
    if any(name.endswith(_DORA) for name in tensors):
        raise LoraError(
            "A DoRA with names of this kind cannot be used with this model; choose a plain LoRA, "
            "or one that was saved with diffusers."
        )
    by_layer: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        split = split_name(name)
        by_layer[name if split is None else split.layer][name] = tensor
    for layer, own in by_layer.items():
        # Some converters leave out what they do not know, and only log it.
        if not loader.lora_state_dict(own):
            raise ValueError(layer)
    converted: Mapping[str, torch.Tensor] = loader.lora_state_dict(dict(tensors))
    return converted


def _unet_layers(written: Collection[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the layers of a UNet by the way in which they are written, for those of kohya's kind.

    The converters rename tensors, so they get texts in the place of tensors.
    """
    by_kohya = {_as_kohya(layer): layer for layer in written if _as_kohya(layer)}
    stubs = {f"{name}{end}": name for name in by_kohya for end in (_DOWN, _UP)}
    sized = SimpleNamespace(layers_per_block=config.get("layers_per_block", 2))
    mapped = _maybe_map_sgm_blocks_to_diffusers(stubs, sized)
    converted, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    of_unet = {k.removeprefix(_UNET): v for k, v in converted.items() if k.startswith(_UNET)}
    peft = convert_unet_state_dict_to_peft(of_unet)
    return {by_kohya[name]: key.partition(_PEFT)[0] for key, name in peft.items() if _PEFT in key}


def _as_kohya(layer: str) -> str | None:
    if layer.startswith(_COMFY):
        return _KOHYA + layer.removeprefix(_COMFY).replace(".", "_")
    return layer if layer.startswith(_KOHYA) else None


def _of_older_diffusers(name: str) -> str:
    """Return today's name of a tensor as diffusers wrote it until version 0.26."""
    for prefix in _TEXT:
        if name.startswith(prefix):
            stub = convert_state_dict_to_diffusers({name.removeprefix(prefix): name})
            return prefix + str(next(iter(convert_state_dict_to_peft(stub))))
    stub = convert_unet_state_dict_to_peft({name.removeprefix(_UNET): name})
    return _UNET + str(next(iter(stub)))
