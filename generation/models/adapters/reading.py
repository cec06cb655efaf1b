"""From a LoRA file to what it changes, checked against the model before anything is computed."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from ...catalog.addons.loras import without_folder
from ...catalog.headers import FLOATS, Header, read_header
from ...errors import LoraError, ModelError, first_sentence
from .adapter import Adapter, Change
from .conversion import Convert
from .fitting import fitted
from .layouts import ALPHA, LayerIndex, Target, first_unusable, is_adapter

Shapes = Mapping[str, Mapping[str, torch.Size]]
"""The shapes of the weights of a model's layers: by part, and in it by layer."""

# A LoRA of rank 128 for all layers of SDXL has 1.8 GB in float32.
_BYTES_MOST: Final = 4 * 2**30
# diffusers writes the config of peft here.
_METADATA: Final = "lora_adapter_metadata"
_ALPHA_MOST: Final = 1e6


def read_adapter(path: Path, name: str, shapes: Shapes, convert: Convert, model: str) -> Adapter:
    """Return what the LoRA in the file `path` changes in a model whose layers have these shapes.

    `name` is what people call the LoRA, and `model` what they call the model.

    Raises:
        LoraError: the file is broken, is no LoRA, or is made for another kind of model.
    """
    header = _header(path, name)
    if unusable := first_unusable(header.tensors):
        raise LoraError(
            f"The LoRA {name} holds the tensor {unusable[:120]!r}, which is of a kind that cannot "
            "be used; choose a LoRA, DoRA, LoHa or LoKr."
        )
    tensors = _tensors(path, name, header)
    targets = _targets(tensors, shapes, convert)
    if targets is None:
        raise LoraError(
            f"The LoRA {name} is made for another kind of model than {model}; choose another LoRA, "
            "or the model that it was made for."
        )
    grouped: dict[tuple[str, str], dict[str, torch.Tensor]] = defaultdict(dict)
    for target, tensor in targets:
        grouped[target.part, target.layer][target.role] = tensor
    alphas = _written_alphas(header.metadata)
    parts: dict[str, dict[str, Change]] = defaultdict(dict)
    for (part, layer), roles in grouped.items():
        alpha = _alpha(roles.pop(ALPHA, None), alphas.get(part), layer)
        if not roles:
            continue
        change = fitted(Change(roles, alpha), shapes[part][layer])
        if change is None:
            raise LoraError(
                f"The LoRA {name} does not fit {model}: its tensors for {part}.{layer} have other "
                "shapes than that layer; choose a LoRA for this kind of model."
            )
        parts[part][layer] = change
    return Adapter(parts)


def _header(path: Path, name: str) -> Header:
    try:
        header = read_header(path, what="the LoRA")
    except ModelError as error:
        raise without_folder(error, path) from error
    if not is_adapter(header.tensors):
        raise LoraError(
            f"The file of the LoRA {name} holds no LoRA; put a LoRA, DoRA, LoHa or LoKr there, in "
            "the .safetensors format."
        )
    numbers = sum(math.prod(info.shape) for info in header.tensors.values())
    if 4 * numbers > _BYTES_MOST:
        raise LoraError(
            f"The LoRA {name} has {numbers:,} numbers, more than {_BYTES_MOST // 4:,}; choose one "
            "of a lower rank."
        )
    return header


def _tensors(path: Path, name: str, header: Header) -> dict[str, torch.Tensor]:
    """Return copies of all tensors: one mapped from a file ends the process if the file is cut."""
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for key, info in header.tensors.items():
                tensor: torch.Tensor = opened.get_tensor(key)
                if info.dtype in FLOATS and not bool(torch.isfinite(tensor.float()).all()):
                    raise LoraError(
                        f"The LoRA {name} has numbers in the tensor {key[:120]!r} that are not "
                        "finite, so every picture would be broken; choose another copy."
                    )
                tensors[key] = tensor.clone()
    except (SafetensorError, OSError) as error:
        raise LoraError(
            f"The LoRA {name} cannot be read ({first_sentence(error)}); download it again."
        ) from error
    return tensors


def _targets(
    tensors: Mapping[str, torch.Tensor], shapes: Shapes, convert: Convert
) -> list[tuple[Target, torch.Tensor]] | None:
    """Return what each tensor changes; None if one of them belongs to no layer of the model."""
    index = LayerIndex({part: layers.keys() for part, layers in shapes.items()})
    found = list(_found(tensors, index))
    if None not in found:
        return [target for target in found if target is not None]
    try:
        converted = convert(tensors)
    except LoraError:
        raise
    # The converters of diffusers check nothing, so a wrong name may cause any error.
    except Exception:
        return None
    found = list(_found(converted, index))
    return None if None in found else [target for target in found if target is not None]


def _found(
    tensors: Mapping[str, torch.Tensor], index: LayerIndex
) -> Iterator[tuple[Target, torch.Tensor] | None]:
    for name, tensor in tensors.items():
        target = index.target(name)
        yield None if target is None else (target, tensor)


def _alpha(
    stored: torch.Tensor | None, written: Mapping[str, Any] | None, layer: str
) -> float | None:
    """Return alpha from its tensor, or else from the config of peft in the header."""
    if stored is not None:
        return float(stored.reshape(-1)[0]) if stored.numel() else None
    if written is None:
        return None
    pattern = written.get("alpha_pattern")
    alpha = pattern.get(layer) if isinstance(pattern, dict) else None
    alpha = written.get("lora_alpha") if alpha is None else alpha
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        return None
    return float(alpha) if abs(alpha) <= _ALPHA_MOST else None


def _written_alphas(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the config of peft for each part, as far as the header has one."""
    try:
        read = json.loads(metadata.get(_METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in read.items() if isinstance(read, dict) else ():
        part, _, setting = key.partition(".")
        parts[part][setting] = value
    return parts
