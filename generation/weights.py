"""From a model's folder to its networks on a device, from safetensors only."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import PartialState
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from . import kernels
from .errors import ModelError
from .locate import ModelProfile
from .model_files import (
    SCHEDULER_CONFIG,
    ModelFiles,
    PartWeights,
    list_folder,
    read_config,
    select_files,
    weights_sha256,
)
from .models.stable_diffusion import Components
from .request import SCHEDULERS
from .samplers import Sampler

DTYPES: Final = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
_NETWORKS: Final = {
    "text_encoder": CLIPTextModel,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}
_quietly = threading.Lock()


def load(
    profile: ModelProfile,
    *,
    device: str | None = None,
    dtype: str | None = None,
    offload: bool = False,
    compiled: bool = False,
) -> Components:
    """Return the networks of a model, ready to run, and leave the global random state alone.

    Without a `device` accelerate chooses: the accelerator if there is one, else the CPU.
    Without a `dtype` (`float16`, `bfloat16` or `float32`) it is float16 on CUDA and float32
    elsewhere. With `offload` only the network that runs is on the device and the others
    wait in main memory; on the CPU that changes nothing. The networks are prepared by
    `generation.kernels`, so that rows of a batch do not depend on each other; with `compiled`
    the UNet's convolutions are left to the compiler.

    Raises:
        ModelError: a file is broken, the device is not there or its memory too small.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    files = select_files(list_folder(profile.folder), f"The model in {profile.folder}")
    with quiet(), torch.random.fork_rng(devices=[]):
        _check_schedulers(profile)
        tokenizer = _load_tokenizer(profile.folder / "tokenizer")
        networks = {part: _load_network(profile.folder, part, files, kind) for part in _NETWORKS}
    _place(networks, place, offload=offload and place.type != "cpu")
    kernels.prepare(networks["unet"], pack=not compiled)
    kernels.prepare(networks["vae"])
    return Components(
        tokenizer=tokenizer,
        **networks,
        scheduler_config=profile.scheduler_config,
        device=place,
        dtype=kind,
        profile=profile,
        weights_sha256=weights_sha256(profile.folder),
    )


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name` (as in `cpu`, `cuda`, `cuda:1`), or accelerate's choice.

    Raises:
        ModelError: torch knows no such device, or this machine has none.
    """
    try:
        device = PartialState().device if name is None else _named(name)
        # Tensors say `cuda:0` and `cpu`, and only equal devices compare as equal.
        device = torch.device("cpu") if device.type == "cpu" else _numbered(device)
        # The only test that holds for every kind of device is to put something there.
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"The device {name!r} cannot be used on this machine ({_short(error)}); use cpu, or "
            "leave the device out to have one chosen."
        ) from error
    return device


def _named(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        # Torch's own words are a list of what it could be built for.
        raise ModelError(
            f"There is no device {name!r}; say cuda, cuda:1, mps or cpu, or leave the device out "
            "to have one chosen."
        ) from error


def _numbered(device: torch.device) -> torch.device:
    return device if ":" in str(device) else torch.device(device.type, 0)


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the type called `name`, or float16 on CUDA and float32 elsewhere.

    Raises:
        ModelError: there is no such type, or it is of no use on the device.
    """
    if name is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ModelError(f"There is no dtype {name!r}; use one of {', '.join(DTYPES)}.")
    if device.type == "cpu" and name == "float16":
        raise ModelError("float16 is of no use on a CPU; use float32 or bfloat16 there.")
    return DTYPES[name]


def _check_schedulers(profile: ModelProfile) -> None:
    """Make each scheduler once: what its file cannot say would else fail everybody's pictures."""
    for name in SCHEDULERS:
        try:
            Sampler(name, profile.scheduler_config, steps=profile.default_steps)
        # Each value is used as it is, in whatever arithmetic or comparison.
        except Exception as error:
            raise ModelError(
                f"{profile.folder / SCHEDULER_CONFIG} cannot be used ({_short(error)}); download "
                "the model again, or correct it there."
            ) from error


def _load_tokenizer(folder: Path) -> Any:
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    # The Rust tokenizers raise bare Exceptions, so there is no narrower class to name.
    except Exception as error:
        raise _broken(folder, error) from error


def _load_network(folder: Path, part: str, files: ModelFiles, dtype: torch.dtype) -> Any:
    weights = files.weights[part]
    _check_headers(folder, weights)
    try:
        network, report = _NETWORKS[part].from_pretrained(
            folder / part,
            variant=weights.variant,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # What did not fit is reported below, in the same words for both libraries.
            ignore_mismatched_sizes=True,
        )
    # A config can make the networks' constructors fail in any way.
    except Exception as error:
        raise _broken(folder / weights.names[0], error) from error
    _check_report(folder / weights.names[0], part, report)
    return network.eval().requires_grad_(False)


def _check_headers(folder: Path, weights: PartWeights) -> None:
    """Read where the tensors lie: that finds a file that was cut off, and costs nothing."""
    for name in weights.names:
        if not name.endswith(".safetensors"):
            read_config(folder, name)
            continue
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise _broken(folder / name, error) from error


def _check_report(path: Path, part: str, report: Mapping[str, Any]) -> None:
    """Refuse what the libraries would fill with random numbers."""
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{path} lacks {len(missing)} of the tensors that {part}/config.json asks for (such as "
            f"{missing[0]}); download the model again."
        )
    if other := sorted(key for key, *_ in report["mismatched_keys"]):
        raise ModelError(
            f"{path} has {len(other)} tensors of another shape than {part}/config.json asks for "
            f"(such as {other[0]}); download the model again."
        )


def _broken(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} cannot be loaded ({_short(error)}); download the model again or choose another."
    )


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text.split(". ")[0], 100, placeholder=" ...").rstrip(".")


def _place(networks: dict[str, Any], device: torch.device, *, offload: bool) -> None:
    if offload:
        for network in networks.values():
            others = [other for other in networks.values() if other is not network]
            add_hook_to_module(network, _OneAtATime(device, others), append=True)
        return
    if not _moved(networks, device):
        # Whoever keeps the error must not keep what is on the device by then: others need the room.
        networks.clear()
        raise ModelError(
            f"The model does not fit into the memory of {device}; use float16, a smaller model, "
            "or offload."
        )


def _moved(networks: dict[str, Any], device: torch.device) -> bool:
    """Move the networks to `device`, and return whether they fit."""
    try:
        for network in networks.values():
            network.to(device)
    except torch.OutOfMemoryError:
        return False
    return True


class _OneAtATime(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """Brings a network to the device before it runs, after sending the others away.

    accelerate's own hook knows one predecessor, as in a pipeline that runs once from end
    to end; in a batch that people join and leave, any network may follow any other.
    """

    def __init__(self, device: torch.device, others: list[torch.nn.Module]) -> None:
        self._device, self._others = device, others

    def pre_forward(
        self, module: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs, on the device."""
        if next(module.parameters()).device != self._device:
            for other in self._others:
                other.to("cpu")
            module.to(self._device)
        return send_to_device(args, self._device), send_to_device(kwargs, self._device)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' bars and warnings off the terminal; what matters is raised.

    That is a setting of the whole process, so only one block runs at a time.
    """
    with _quietly:
        levels = [(lib, lib.get_verbosity()) for lib in (diffusers_logging, transformers_logging)]
        bars = diffusers_logging.is_progress_bar_enabled()
        hook = transformers_logging.set_tqdm_hook(
            lambda factory, args, kwargs: factory(*args, **{**kwargs, "disable": True})
        )
        diffusers_logging.disable_progress_bar()
        for library, _ in levels:
            library.set_verbosity(library.CRITICAL)
        try:
            yield
        finally:
            for library, level in levels:
                library.set_verbosity(level)
            if bars:
                diffusers_logging.enable_progress_bar()
            transformers_logging.set_tqdm_hook(hook)
