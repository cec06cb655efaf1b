"""LoRA files for a small model, in each layout of names that trainers write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from generation.models.networks.deterministic import is_weighted

RANK = 3
ALPHA = 2.0
Tensors = dict[str, torch.Tensor]


class Layer:
    """A layer to change: its part, its name, and the shape of its weight."""

    def __init__(self, part: str, name: str, shape: torch.Size) -> None:
        self.part, self.name, self.shape = part, name, shape
        self.down = 0.2 * torch.randn(RANK, *shape[1:])
        self.up = 0.2 * torch.randn(shape[0], RANK, *[1] * (len(shape) - 2))


def layers(networks: dict[str, nn.Module], *, only: str = "", seed: int = 0) -> list[Layer]:
    """Return the layers whose names have `only`, each with a random change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [
            Layer(part, name, module.weight.shape)  # type: ignore[arg-type]  # such a module's
            for part, network in networks.items()
            for name, module in network.named_modules()
            if is_weighted(module) and only in name
        ]


def kohya(found: list[Layer]) -> Tensors:
    """Return what kohya's scripts write, and A1111 reads."""
    prefixes = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te_text_model_",
        "text_encoder_2": "lora_te2_text_model_",
        "transformer": "lora_unet_",
    }
    tensors: Tensors = {}
    for layer in found:
        name = prefixes[layer.part] + layer.name.removeprefix("text_model.").replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


def peft(found: list[Layer]) -> Tensors:
    """Return what `save_lora_weights` of diffusers writes today; alpha is the rank."""
    return {
        f"{layer.part}.{layer.name}.lora_{letter}.weight": tensor
        for layer in found
        for letter, tensor in (("A", layer.down), ("B", layer.up))
    }


def diffusers(found: list[Layer]) -> Tensors:
    """Return what diffusers wrote from version 0.21 on."""
    middle = {"unet": "lora", "text_encoder": "lora_linear_layer"}
    return {
        f"{layer.part}.{layer.name}.{middle[layer.part]}.{way}.weight": tensor
        for layer in found
        for way, tensor in (("down", layer.down), ("up", layer.up))
    }


def old_diffusers(found: list[Layer]) -> Tensors:
    """Return what diffusers wrote at first, for the layers of attention in a UNet."""
    tensors: Tensors = {}
    for layer in found:
        block, _, leaf = layer.name.removesuffix(".0").rpartition(".")
        for way, tensor in (("down", layer.down), ("up", layer.up)):
            tensors[f"unet.{block}.processor.{leaf}_lora.{way}.weight"] = tensor
    return tensors


def doras(found: list[Layer]) -> Tensors:
    """Return DoRAs as peft names them."""
    tensors = peft(found)
    for layer in found:
        name = f"{layer.part}.{layer.name}.lora_magnitude_vector"
        rows = layer.shape[0]
        shape = [rows] if len(layer.shape) == 2 else [1, rows, 1, 1]
        tensors[name] = 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(rows))
    return tensors


def lohas(found: list[Layer]) -> Iterator[tuple[Layer, Tensors]]:
    """Yield the tensors of a LoHa for each layer, by their last names."""
    for number, layer in enumerate(found):
        draws = torch.Generator().manual_seed(number)
        columns = layer.shape[1:].numel()
        yield (
            layer,
            {
                f"hada_w{factor}_{side}": 0.5 * torch.randn(shape, generator=draws)
                for factor in (1, 2)
                for side, shape in (("a", (layer.shape[0], RANK)), ("b", (RANK, columns)))
            },
        )


def save(tensors: Tensors, file: Path, metadata: dict[str, object] | None = None) -> Path:
    """Write a LoRA file, with a config of peft if there is `metadata`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
    save_file({name: each.contiguous().clone() for name, each in tensors.items()}, file, written)
    return file


LAYOUTS: dict[str, Callable[[list[Layer]], Tensors]] = {
    "kohya": kohya,
    "peft": peft,
    "diffusers": diffusers,
    "old diffusers": old_diffusers,
}
