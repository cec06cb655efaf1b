"""From a model's folder to its networks on a device, from safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..catalog.files import SCHEDULER_CONFIG, ModelFiles, list_folder, read_config, select_files
from ..catalog.hashing import weights_sha256
from ..catalog.parts import find_tensors
from ..catalog.profile import ModelProfile, noise_alone
from ..errors import ModelError, first_sentence
from ..libraries import quiet
from ..schedulers.sampler import Sampler
from ..values.request import SCHEDULERS
from . import deterministic
from .building import NETWORKS, build, made_from
from .devices import choose_device, choose_dtype
from .placement import place
from .stable_diffusion import Components
from .tokenizing import load_tokenizer


def load(
    profile: ModelProfile,
    *,
    device: str | None = None,
    dtype: str | None = None,
    compiled: bool = False,
) -> Components:
    """Return the networks of a model, ready to run, and leave the global random state alone.

    Without a `device` accelerate chooses: the accelerator if there is one, else the CPU.
    Without a `dtype` (`float16`, `bfloat16` or `float32`) it is float16 on CUDA and float32
    elsewhere. The networks are prepared by `generation.models.deterministic`, so that rows of a
    batch do not depend on each other; with `compiled` the UNet's convolutions are left to the
    compiler.

    Raises:
        ModelError: a file is broken, the device is not there or its memory too small.
    """
    target = choose_device(device)
    kind = choose_dtype(dtype, target)
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
    place(networks, target)
    for part in ("unet", "vae"):
        # A constructor of torch accepts a padding or stride that is no number; this does not.
        with made_from(part, profile.folder / part / "config.json"):
            deterministic.prepare(networks[part], pack=part == "vae" or not compiled)
    return Components(
        tokenizer=tokenizer,
        **networks,
        scheduler_config=profile.scheduler_config,
        device=target,
        dtype=kind,
        profile=profile,
        weights_sha256=digest,
    )


def _check_schedulers(profile: ModelProfile) -> None:
    """Make each scheduler once: what its file cannot say would else fail everybody's pictures."""
    path = profile.folder / SCHEDULER_CONFIG
    for name in SCHEDULERS:
        try:
            signal = _signal(Sampler(name, profile.scheduler_config, steps=profile.default_steps))
        # Each value is used as it is, in whatever arithmetic or comparison.
        except Exception as error:
            raise ModelError(
                f"{path} cannot be used ({first_sentence(error)}); download the model "
                "again, or correct it there."
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
