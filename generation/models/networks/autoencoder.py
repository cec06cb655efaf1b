"""An autoencoder from a file of its own, by diffusers' names or by those of Stability AI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import SafetensorError, safe_open

from ...catalog.addons.autoencoder import other_model
from ...catalog.parts import file_tensors, modern_name
from ...catalog.tensors import read_tensor
from ...errors import ModelError, first_sentence

_PREFIXES: Final = ("first_stage_model.", "vae.")
_PARTS: Final = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "bn.")
# The blocks of a decoder, as Stability AI calls them.
_OLD: Final = "decoder.up."


def load_autoencoder(
    file: Path,
    make: Any,
    config: Mapping[str, Any],
    shapes: Mapping[str, torch.Size],
    dtype: torch.dtype,
) -> Any:
    """Return the network that `make` makes of `config`, with the weights in `file` as `dtype`.

    `shapes` are those of the network's tensors. What the file holds beside them does not matter.

    Raises:
        ModelError: the file is broken, or its tensors do not fit the network.
    """
    tensors = _tensors(file)
    if any(name.startswith(_OLD) for name in tensors):
        try:
            tensors = convert_ldm_vae_checkpoint(tensors, dict(config))
        # The converter expects the names of its network, so another file may cause any error.
        except Exception as error:
            raise other_model(file, "its tensors have other names") from error
    else:
        tensors = {modern_name(name, shapes): tensor for name, tensor in tensors.items()}
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise other_model(file, f"it lacks {len(missing)} tensors, such as {missing[0]}")
    for name, shape in shapes.items():
        if tensors[name].numel() != shape.numel() or tensors[name].shape[:2] != shape[:2]:
            raise other_model(file, f"{name} has another shape")
    with init_empty_weights(include_buffers=False):
        network = make(config)
    fitting = {n: tensors[n].to(dtype, copy=True).reshape(shape) for n, shape in shapes.items()}
    network.load_state_dict(fitting, assign=True)
    return network.eval().requires_grad_(False)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name, place in file_tensors(file).items():
                plain = name
                for prefix in _PREFIXES:
                    plain = plain.removeprefix(prefix)
                if plain.startswith(_PARTS):
                    tensors[plain] = read_tensor(opened, place)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"The VAE {file} cannot be read ({first_sentence(error)}); download it again."
        ) from error
    return tensors
