"""From a model's folder to its networks on a device, from safetensors only."""

from __future__ import annotations

import torch

from ..catalog.cache.sizes import weight_count
from ..catalog.files import SCHEDULER_CONFIG, list_folder, select_files
from ..catalog.hashing import weights_sha256
from ..catalog.profile import ModelProfile
from ..errors import ModelError, first_sentence
from ..libraries import quiet
from ..schedulers.registry import REGISTRY
from ..schedulers.sampler import Sampler
from ..values.request import SchedulerName
from .describing import noise_alone
from .families import family_of
from .family import Model
from .networks.devices import choose_device, choose_dtype


def load(
    profile: ModelProfile,
    *,
    device: str | None = None,
    dtype: str | None = None,
    compiled: bool = False,
) -> Model:
    """Return a model, ready to run; the global random state is left alone.

    Without a `device` accelerate chooses: the accelerator if there is one, else the CPU.
    Without a `dtype` (`float16`, `bfloat16` or `float32`) it is the 16-bit type of the model's
    family on CUDA, and float32 elsewhere. The networks are prepared by
    `generation.models.networks.deterministic`, so that rows of a batch do not depend on each other;
    with `compiled` the network's convolutions are left to the compiler.

    Raises:
        ModelError: a file is broken, the device is not there or its memory too small.
    """
    target = choose_device(device)
    number = choose_dtype(dtype, target, profile.half)
    family = family_of(profile.pipeline)
    digest = weights_sha256(profile.folder, family.layout)
    names = list_folder(profile.folder)
    files = select_files(names, family.layout, f"The model in {profile.folder}")
    with quiet(), torch.random.fork_rng(devices=[]):
        kind: type[Model] = family.load()
        model = kind.load(
            profile, files, device=target, dtype=number, compiled=compiled, weights_sha256=digest
        )
        _check_schedulers(model)
    if weights_sha256(profile.folder, family.layout) != digest:
        raise ModelError(
            f"The files in {profile.folder} changed while they were read; start again when they "
            "are complete."
        )
    return model


def expected_bytes(profile: ModelProfile, *, device: str | None, dtype: str | None) -> int:
    """Return about how many bytes of memory the weights of a model take, before it is loaded.

    `device` and `dtype` are as in `load`.

    Raises:
        ModelError: a file is broken or missing, or the device is not there.
    """
    layout = family_of(profile.pipeline).layout
    files = select_files(list_folder(profile.folder), layout, f"The model in {profile.folder}")
    number = choose_dtype(dtype, choose_device(device), profile.half)
    return weight_count(profile.folder, files) * number.itemsize


def _check_schedulers(model: Model) -> None:
    """Make each scheduler once, so that a wrong config fails here and not at every picture."""
    profile = model.profile
    path = profile.folder / SCHEDULER_CONFIG
    for name in profile.schedulers:
        try:
            sampler = _sampler(name, model)
            signal = None if profile.prediction_type == "flow" else _signal(sampler)
        # diffusers checks no value, so a wrong value may cause any error.
        except Exception as error:
            raise ModelError(
                f"{path} cannot be used ({first_sentence(error)}); download the model "
                "again, or correct it there."
            ) from error
        # The betas alone may make such a schedule, without the flag that `locate` refuses.
        if signal is not None and signal[-1] == 0 and profile.prediction_type == "epsilon":
            raise noise_alone(path, "alphas_cumprod ends at 0")


def _sampler(name: SchedulerName, model: Model) -> Sampler:
    profile = model.profile
    side, steps = profile.native_size, min(profile.default_steps, REGISTRY[name].most_steps)
    return Sampler(
        name,
        profile.scheduler_config,
        steps=steps,
        settings=model.schedule(side, side, steps),
        draws=torch.Generator(),
    )


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
