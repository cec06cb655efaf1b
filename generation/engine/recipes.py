"""From a finished image to the recipe that makes the same picture again."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

import torch

from ..catalog.profile import ModelProfile
from ..values.recipe import Recipe
from .denoising import Denoising

_LIBRARIES: Final = ("imagine-bot", "torch", "diffusers", "transformers")


def library_versions() -> dict[str, str]:
    """Return the versions of the engine and of the libraries that compute in every picture."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _used_libraries(profile: ModelProfile, *, has_loras: bool) -> Iterator[str]:
    """Yield the names of the other libraries that took part in a picture."""
    if profile.denoiser is not None and profile.denoiser.is_gguf:
        yield "gguf"
    if profile.savings.quantize is not None:
        yield "optimum-quanto"
    if has_loras:
        yield "peft"


_version = cache(importlib.metadata.version)


def recipe_of(image: Denoising, pixels_sha256: str, versions: Mapping[str, str]) -> Recipe:
    """Return everything that the picture of `image` depends on, and the hash of its pixels."""
    request, model, adaptation = image.request, image.networks.model, image.adaptation
    denoiser = model.profile.denoiser
    loras = None if adaptation is None else adaptation.used_loras
    others = _used_libraries(model.profile, has_loras=bool(loras))
    is_compiled = image.networks.is_compiled_for(image.latents.shape, image.conditional, adaptation)
    return Recipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        read_prompt=request.read_prompt,
        read_negative_prompt=request.read_negative_prompt,
        seed=request.seed,
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        scheduler=request.scheduler,
        spacing=request.spacing,
        guidance_rescale=request.guidance_rescale,
        scheduler_settings=image.sampler.settings,
        model=model.profile.name,
        model_sha256=model.weights_sha256,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        source_sha256=request.pixels.sha256 if request.pixels else None,
        strength=request.strength,
        unread_prompt=image.unread_prompt,
        versions={**versions, **{name: _version(name) for name in others}},
        pixels_sha256=pixels_sha256,
        threads=torch.get_num_threads() if model.device.type == "cpu" else None,
        decoder_tile=image.decoder_tile,
        quantization=model.profile.quantization,
        base_sha256=None if denoiser is None else denoiser.base_sha256,
        reference_sha256=[picture.sha256 for picture in request.reference_pixels] or None,
        compiled=True if is_compiled else None,
        loras=loras,
        inversions=None if adaptation is None else adaptation.used_inversions,
    )
