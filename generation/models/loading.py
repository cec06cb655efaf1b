"""From a model's folder to its networks on a device, from safetensors only."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..catalog.files import SCHEDULER_CONFIG, ModelFiles, list_folder, select_files
from ..catalog.hashing import file_sha256, weights_sha256
from ..catalog.layout import Layout
from ..catalog.memory.savings import NO_SAVINGS
from ..catalog.memory.sizes import PartSize, on_card, part_sizes
from ..catalog.profile import ModelProfile
from ..errors import ModelError, first_sentence
from ..libraries import quiet
from ..schedulers.registry import REGISTRY
from ..schedulers.sampler import Sampler
from ..values.request import SchedulerName
from .describing.schedules import noise_alone
from .families import family_of
from .family import Model
from .locate import layout_for, layout_of
from .networks.devices import choose_device, choose_dtype
from .networks.measuring import peak_bytes


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
    with `compiled` the network's convolutions are left to the compiler. The profile says what the
    weights are read from, and how memory is saved.

    Raises:
        ModelError: a file is broken, the device is not there or its memory too small.
    """
    _check_compiled(profile, compiled=compiled)
    target = choose_device(device)
    number = choose_dtype(dtype, target, profile.half)
    layout = _layout(profile)
    digest = model_sha256(profile)
    if profile.denoiser is not None:
        base = weights_sha256(profile.folder, layout)
        profile = replace(profile, denoiser=replace(profile.denoiser, base_sha256=base))
    files = _files(profile, layout)
    with quiet(), torch.random.fork_rng(devices=[]):
        kind: type[Model] = family_of(profile.pipeline).load()
        model = kind.load(
            profile, files, device=target, dtype=number, compiled=compiled, weights_sha256=digest
        )
        _check_schedulers(model)
    if model_sha256(profile) != digest:
        raise ModelError(
            f"The files in {profile.folder} changed while they were read; start again when they "
            "are complete."
        )
    return model


def expected_bytes(profile: ModelProfile, *, device: str | None, dtype: str | None) -> int:
    """Return about how many bytes of memory the weights of a model take, before it is loaded.

    `device` and `dtype` are as in `load`. Of an offloaded model it is what is on the device.

    Raises:
        ModelError: a file is broken or missing, or the device is not there.
    """
    number = choose_dtype(dtype, choose_device(device), profile.half)
    return on_card(sizes_of(profile, number), profile.savings)


def sizes_of(profile: ModelProfile, dtype: torch.dtype) -> dict[str, PartSize]:
    """Return the sizes of a model's weights by part, with numbers of type `dtype`.

    Raises:
        ModelError: a file is broken or missing.
    """
    layout, denoiser = _layout(profile), profile.denoiser
    own = None if denoiser is None else (layout.denoiser, denoiser)
    return part_sizes(profile.folder, _files(profile, layout), own, dtype.itemsize)


def decoding_bytes(profile: ModelProfile, dtype: torch.dtype) -> int:
    """Return about how many bytes decoding a picture of the model's own size takes.

    They are measured on shapes, by `generation.models.networks.measuring`.

    Raises:
        ModelError: a file is broken or missing.
    """
    layout = _layout(profile)
    without_numbers = replace(_files(profile, layout), weights={})
    plain = replace(profile, denoiser=None, savings=NO_SAVINGS)
    with quiet(), torch.random.fork_rng(devices=[]):
        model: Model = (
            family_of(profile.pipeline)
            .load()
            .load(
                plain,
                without_numbers,
                device=torch.device("meta"),
                dtype=dtype,
                compiled=False,
                weights_sha256="",
            )
        )
    side, tile = profile.native_size, profile.savings.decoder_tile
    latents = torch.empty(model.latent_shape(side, side), device="meta", dtype=model.latents_dtype)
    if tile is None or tile >= side:
        return peak_bytes(lambda: model.decode(latents))
    return peak_bytes(lambda: model.decode_in_tiles(latents, tile))


def _layout(profile: ModelProfile) -> Layout:
    return layout_for(layout_of(profile.folder), profile.denoiser)


def _files(profile: ModelProfile, layout: Layout) -> ModelFiles:
    return select_files(list_folder(profile.folder), layout, f"The model in {profile.folder}")


def model_sha256(profile: ModelProfile) -> str:
    """Return one hash over all that the model's numbers depend on, as a recipe names it.

    An unchanged file is read only once in a process.

    Raises:
        ModelError: a file is missing or cannot be read.
    """
    layout, also = _layout(profile), []
    if profile.denoiser is not None:
        also.append(f"{layout.denoiser}\0{file_sha256(profile.denoiser.path)}")
    if profile.autoencoder is not None:
        also.append(f"vae\0{file_sha256(profile.autoencoder)}")
    if profile.savings.quantize is not None:
        also.append(f"quantize\0{profile.savings.quantize}")
    return weights_sha256(profile.folder, layout, also=also)


def _check_compiled(profile: ModelProfile, *, compiled: bool) -> None:
    if compiled and (profile.quantization or profile.savings.offload != "none"):
        raise ModelError(
            f"The model {profile.name} is quantised or offloaded, which cannot be compiled; set "
            "compile = false, or leave out quantize and offload."
        )


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
