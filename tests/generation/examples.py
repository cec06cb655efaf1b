"""Requests, recipes and pictures for tests that are about something else."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from generation.models.locate import locate
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from generation.values.request import GenerationRequest

if TYPE_CHECKING:
    from generation.models.stable_diffusion import StableDiffusion

# The pictures of the model that comes with the package are so large.
STARTER: Final = locate("starter")
EDGE: Final = STARTER.native_size
VALUES: dict[str, Any] = {
    "prompt": "rabbit face",
    "seed": 7,
    "width": 64,
    "height": 64,
    "steps": 3,
    "guidance_scale": 4.0,
    "scheduler": "ddim",
}


def a_request(**changes: Any) -> GenerationRequest:
    """Return a small request with `changes`."""
    return GenerationRequest(**{**VALUES, **changes})


def latent_side(pixels: int, parts: StableDiffusion) -> int:
    """Return how many latents a side of so many pixels has with the model `parts`."""
    return int(pixels * parts.unet.config.sample_size // parts.profile.native_size)


def gradient(width: int = 64, height: int = 64) -> Pixels:
    """Return a picture that is different everywhere."""
    rgb = bytearray()
    for y in range(height):
        for x in range(width):
            rgb += bytes((255 * x // width, 255 * y // height, (x * y) % 256))
    return Pixels(width, height, bytes(rgb))


def a_recipe(**changes: Any) -> Recipe:
    """Return the recipe of `gradient()` with `changes`."""
    values = {
        **VALUES,
        "negative_prompt": "blurry, dark",
        "scheduler_settings": {"beta_start": 0.00085, "trained_betas": None, "steps_offset": 1},
        "model": "starter",
        "model_sha256": hashlib.sha256(b"weights").hexdigest(),
        "dtype": "float32",
        "device": "cpu",
        "source_sha256": None,
        "strength": None,
        "unread_prompt": "",
        "versions": {"imagine-bot": "0.1.0", "torch": "2.6.0"},
        "pixels_sha256": gradient().sha256,
    }
    return Recipe(**{**values, **changes})
