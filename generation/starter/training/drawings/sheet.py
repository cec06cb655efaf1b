"""Sheets of pictures that a model makes with the project's own engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from ....engine.denoising import Denoising
from ....engine.engine import Engine
from ....errors import GenerationError, ModelError
from ....models.loading import load
from ....models.locate import locate
from ....models.stable_diffusion import StableDiffusion
from ....values.pixels import Pixels
from ....values.request import GenerationRequest
from .drawing import Bytes

SAMPLES: Final = (
    "rabbit face",
    "a pizza on a red background",
    "noto style cat face",
    "owl in flat style on a black background",
    "a rose",
    "a tiny red apple on a yellow background",
    "a cat face next to a pizza",
    "a grinning face and a rocket on blue",
    "strawberry, white background",
    "an octopus, green background",
    "soccer ball on orange",
    "bunny",
    "hamburger on purple, flat style",
    "four leaf clover on white",
    "a penguin, pink background, noto style",
    "guitar",
)


@dataclass(frozen=True)
class Painter:
    """A model that makes pictures in the project's own engine, `at_once` in a batch."""

    parts: StableDiffusion
    engine: Engine
    at_once: int = 8

    @classmethod
    def open(cls, folder: Path) -> Painter:
        """Return a painter with the model in `folder`, on accelerate's choice of device."""
        profile = locate(str(folder))
        parts = load(profile)
        if not isinstance(parts, StableDiffusion):
            raise ModelError(f"The model in {folder} is no Stable Diffusion model.")
        again = partial(load, profile, dtype="float32")
        return cls(parts, Engine(parts, load_in_float32=again))

    @property
    def edge(self) -> int:
        """Return the edge of the model's pictures, in pixels."""
        return self.parts.profile.native_size

    def paint(self, requests: Sequence[GenerationRequest]) -> Bytes:
        """Return one picture for each request, [n, height, width, 3].

        Raises:
            GenerationError: a request does not fit the model, or the device is too small.
        """
        made = []
        for start in range(0, len(requests), self.at_once):
            images = self._begin(requests[start : start + self.at_once])
            self._denoise(images)
            made += [self._finish(image) for image in images]
        return np.stack(made)

    def _begin(self, requests: Sequence[GenerationRequest]) -> list[Denoising]:
        images: list[Denoising] = []
        for begun in self.engine.begin(requests):
            if isinstance(begun, GenerationError):
                raise begun
            images += begun
        return images

    def _finish(self, image: Denoising) -> Bytes:
        """Return the picture; one that overflowed is made again in float32 by the engine."""
        while (finished := self.engine.finish([image])[0]) is None:
            if image.failure is not None:
                raise image.failure
            self._denoise([image])
        return to_array(finished.pixels)

    def _denoise(self, images: list[Denoising]) -> None:
        while not all(image.done or image.failure for image in images):
            self.engine.step(images)
        for image in images:
            if image.failure is not None:
                raise image.failure


def request(
    prompt: str, seed: int, *, edge: int, steps: int = 30, guidance: float = 4.0, negative: str = ""
) -> GenerationRequest:
    """Return the request for one square picture by DDIM."""
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        width=edge,
        height=edge,
        steps=steps,
        guidance_scale=guidance,
        scheduler="ddim",
    )


def to_array(pixels: Pixels) -> Bytes:
    """Return `pixels` as [height, width, 3]."""
    return np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)


def sheet(found: Bytes, columns: int) -> Image.Image:
    """Return the pictures [n, h, w, 3] as one, row by row; the end of the last row is white."""
    rows = -(-len(found) // columns)
    _, height, width, _ = found.shape
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for place, picture in enumerate(found):
        top, left = place // columns * height, place % columns * width
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas)
