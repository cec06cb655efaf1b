"""From a model's folder to its networks on a device, from safetensors only."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import PartialState
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from . import kernels
from .catalog.parts import find_tensors
from .errors import ModelError
from .locate import ModelProfile, noise_alone
from .model_files import (
    SCHEDULER_CONFIG,
    ModelFiles,
    list_folder,
    read_config,
    select_files,
    weights_sha256,
)
from .models.building import NETWORKS, build, made_from
from .models.stable_diffusion import Components
from .models.tokenizing import load_tokenizer
from .request import SCHEDULERS
from .samplers import Sampler

DTYPES: Final = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
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
    digest = weights_sha256(profile.folder)
    files = select_files(list_folder(profile.folder), f"The model in {profile.folder}")
    with quiet(), torch.random.fork_rng(devices=[]):
        _check_schedulers(profile)
        networks = {part: _load_network(profile.folder, part, files, kind) for part in NETWORKS}
        vocab_size = networks["text_encoder"].config.vocab_size
        tokenizer = load_tokenizer(profile.folder, files.configs, vocab_size)
    if weights_sha256(profile.folder) != digest:
        raise ModelError(
            f"The files in {profile.folder} changed while they were read; start again when they "
            "are complete."
        )
    _place(networks, place, offload=offload and place.type != "cpu")
    for part in ("unet", "vae"):
        # A constructor of torch accepts a padding or stride that is no number; this does not.
        with made_from(part, profile.folder / part / "config.json"):
            kernels.prepare(networks[part], pack=part == "vae" or not compiled)
    return Components(
        tokenizer=tokenizer,
        **networks,
        scheduler_config=profile.scheduler_config,
        device=place,
        dtype=kind,
        profile=profile,
        weights_sha256=digest,
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
    path = profile.folder / SCHEDULER_CONFIG
    for name in SCHEDULERS:
        try:
            signal = _signal(Sampler(name, profile.scheduler_config, steps=profile.default_steps))
        # Each value is used as it is, in whatever arithmetic or comparison.
        except Exception as error:
            raise ModelError(
                f"{path} cannot be used ({_short(error)}); download the model again, or correct it "
                "there."
            ) from error
        # A file may say so by its betas alone, without the flag that `locate` refuses.
        if signal[-1] == 0 and profile.prediction_type == "epsilon":
            raise noise_alone(path, "alphas_cumprod ends at 0")


def _signal(sampler: Sampler) -> torch.Tensor:
    """Return the signal of a schedule.

    Raises:
        ValueError: its betas cannot be those of a schedule.
    """
    signal = sampler.signal
    if not bool(((signal >= 0) & (signal <= 1)).all()):
        raise ValueError("its betas are not all from 0 to 1")
    if bool((signal[:-1] == 0).any()):
        raise ValueError("its betas leave nothing of an image before the last timestep")
    return signal


def _load_network(folder: Path, part: str, files: ModelFiles, dtype: torch.dtype) -> Any:
    weights = files.weights[part]
    places = find_tensors(folder, part, weights)
    config = read_config(folder, f"{part}/config.json")
    return build(part, config, places, folder / weights.names[0], dtype)


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
        # The kept error must not keep what is on the device by then: others need the room.
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
