"""Which device and which number type a model runs in."""

from __future__ import annotations

import torch
from accelerate import PartialState

from ...catalog.tensors import DTYPES
from ...errors import ModelError, first_sentence


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name` (as in `cpu`, `cuda`, `cuda:1`), or accelerate's choice.

    Raises:
        ModelError: torch knows no such device, or this machine has none.
    """
    try:
        device = PartialState().device if name is None else _named(name)
        # Tensors say `cuda:0` and `cpu`, so the device needs the same form to compare as equal.
        device = torch.device("cpu") if device.type == "cpu" else _numbered(device)
        # Only a tensor on the device shows for every kind of device that the device works.
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"The device {name!r} cannot be used on this machine ({first_sentence(error)}); use "
            "cpu, or leave the device out to have one chosen."
        ) from error
    return device


def _named(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        # Torch's own message lists every device that torch could be built for.
        raise ModelError(
            f"There is no device {name!r}; say cuda, cuda:1, mps or cpu, or leave the device out "
            "to have one chosen."
        ) from error


def _numbered(device: torch.device) -> torch.device:
    return device if ":" in str(device) else torch.device(device.type, 0)


def choose_dtype(name: str | None, device: torch.device, half: str = "float16") -> torch.dtype:
    """Return the type called `name`; without a name it is `half` on CUDA and float32 elsewhere.

    Raises:
        ModelError: there is no such type, or it is of no use on the device.
    """
    if name is None:
        return DTYPES[half if device.type == "cuda" else "float32"]
    if name not in DTYPES:
        raise ModelError(f"There is no dtype {name!r}; use one of {', '.join(DTYPES)}.")
    if device.type == "cpu" and name == "float16":
        raise ModelError("float16 is of no use on a CPU; use float32 or bfloat16 there.")
    return DTYPES[name]
