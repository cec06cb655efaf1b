"""The tensors of a part, copied into memory in the type of the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ModelError
from .headers import FLOATS
from .parts import Place

DTYPES: Final = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}

_WEIGHTS: Final = (".weight", ".bias")


def read_tensors(
    places: Mapping[str, Place], shapes: Mapping[str, torch.Size], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the tensors of `shapes` by name as `dtype`, scales multiplied in.

    The tensors are copies: a tensor mapped from a file ends the process if the file is cut.

    Raises:
        ModelError: a file cannot be read, or a value is no finite number.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in {places[name].file for name in shapes}:
        wanted = {name: places[name] for name in shapes if places[name].file == file}
        try:
            with safe_open(file, framework="pt") as opened:
                for name, place in wanted.items():
                    tensor = read_tensor(opened, place)
                    tensors[name] = tensor.to(dtype, copy=True).reshape(shapes[name])
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} cannot be loaded ({_short(error)}); download the model again or choose "
                "another."
            ) from error
    return tensors


def read_tensor(opened: Any, place: Place) -> torch.Tensor:
    """Return one tensor of an opened file, with its scale multiplied in.

    Raises:
        ModelError: a value is no finite number.
    """
    if place.info.dtype not in FLOATS and place.name.endswith(_WEIGHTS):
        raise ModelError(
            f"{place.file} holds whole numbers in the tensor {place.name[:120]!r}, which this "
            "engine cannot turn into weights; choose a copy of the model in float16 or bfloat16."
        )
    tensor: torch.Tensor = opened.get_tensor(place.name)
    if place.info.dtype.startswith("F8"):
        tensor = tensor.float()
    if place.scale is not None:
        scale: torch.Tensor = opened.get_tensor(place.scale).float()
        # The scales of rows belong to the first dimension of a weight.
        tensor = tensor.float() * scale.reshape(-1, *[1] * max(0, tensor.ndim - 1))
    if place.info.dtype in FLOATS:
        check_finite(tensor, place.file, place.name)
    return tensor


def check_finite(tensor: torch.Tensor, file: Path, name: str) -> None:
    """Refuse a tensor of `file` with a number that is not finite.

    Raises:
        ModelError: there is such a number.
    """
    if not tensor.numel():
        return
    # NaN shows in both results, and no second tensor of this size is made.
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ModelError(
            f"{file} has numbers in the tensor {name[:120]!r} that are not finite, so every "
            "picture would be broken; download the model again or choose another one."
        )


def _short(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:100].rstrip(".")
