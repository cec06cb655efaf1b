"""From what a person typed to a checked request: defaults, limits, seeds, references."""

from __future__ import annotations

import dataclasses
import secrets
from typing import TypeVar

from PIL import Image

from generation.catalog.profile import ModelProfile
from generation.errors import InvalidRequest
from generation.images.files import Fit
from generation.images.pillow import fitted_size, to_pixels
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from generation.values.request import SEED_MAX, SIZE_MULTIPLE, GenerationRequest
from generation.values.spelling import spell_emoji

from ..config import Settings
from .options import RequestOptions

T = TypeVar("T")


def new_seed() -> int:
    """Return a seed that nobody chose."""
    return secrets.randbelow(SEED_MAX + 1)


class RequestBuilder:
    """Makes requests out of options, with this model's defaults and this operator's limits.

    All methods raise InvalidRequest for a value that is out of range or above a limit.
    """

    def __init__(self, settings: Settings, profile: ModelProfile) -> None:
        self._settings = settings
        self._profile = profile
        self._steps = settings.steps or min(profile.default_steps, settings.max_steps)
        self._largest = settings.max_size or profile.default_max_size
        self._guidance = settings.guidance_scale or profile.default_guidance_scale
        multiple = profile.size_multiple
        self._size = min(profile.native_size, self._largest // multiple * multiple)

    def imagine(self, options: RequestOptions) -> GenerationRequest:
        """Return the request for new pictures."""
        prompt, negative = _or(options.prompt, ""), _or(options.negative_prompt, "")
        return self._limited(
            GenerationRequest(
                prompt=prompt,
                negative_prompt=negative,
                read_prompt=self._read("prompt", prompt),
                read_negative_prompt=self._read("negative prompt", negative),
                seed=new_seed() if options.seed is None else options.seed,
                steps=_or(options.steps, self._steps),
                guidance_scale=_or(options.guidance_scale, self._guidance),
                width=_or(options.width, self._size),
                height=_or(options.height, self._size),
                scheduler=_or(options.scheduler, "ddim"),
                count=_or(options.count, 1),
            )
        )

    def similar(self, image: Image.Image, options: RequestOptions) -> GenerationRequest:
        """Return the request for pictures similar to a file from outside, in its own shape."""
        fit = self.fit(options)
        width, height = fitted_size(
            *image.size, native=fit.native, multiple=fit.multiple, most=fit.most
        )
        # Checked before the image is scaled: a wrong size must not cost memory first.
        plain = self.imagine(
            dataclasses.replace(
                options,
                width=_or(options.width, width),
                height=_or(options.height, height),
            )
        )
        return self._from(to_pixels(image, plain.width, plain.height), plain, options)

    def fit(self, options: RequestOptions) -> Fit:
        """Return the size that a file from outside is brought to."""
        return Fit(
            native=self._profile.native_size,
            multiple=max(self._profile.size_multiple, SIZE_MULTIPLE),
            most=min(self._largest, self._profile.default_max_size),
            width=options.width,
            height=options.height,
        )

    def similar_to(self, pixels: Pixels, options: RequestOptions) -> GenerationRequest:
        """Return the request for pictures similar to one that has the size of `fit` already."""
        sized = dataclasses.replace(options, width=pixels.width, height=pixels.height)
        return self._from(pixels, self.imagine(sized), options)

    def _from(
        self, source: Pixels, plain: GenerationRequest, options: RequestOptions
    ) -> GenerationRequest:
        strength = _or(options.strength, self._profile.default_strength)
        return dataclasses.replace(plain, source=source, strength=strength)

    def variation(
        self, recipe: Recipe, picture: Image.Image, options: RequestOptions
    ) -> GenerationRequest:
        """Return the request for a variation of one of our own pictures, by its own recipe."""
        return self.similar(
            picture,
            dataclasses.replace(
                options,
                prompt=_or(options.prompt, recipe.prompt),
                negative_prompt=_or(options.negative_prompt, recipe.negative_prompt),
                # The limit may be lower now; nobody asked for more.
                steps=_or(options.steps, min(recipe.steps, self._settings.max_steps)),
                guidance_scale=_or(options.guidance_scale, recipe.guidance_scale),
                width=recipe.width,
                height=recipe.height,
            ),
        )

    def rerun(self, request: GenerationRequest) -> GenerationRequest:
        """Return the same request with a seed that nobody chose."""
        # As for a variation: the limit may be lower now.
        steps = min(request.steps, self._settings.max_steps)
        return self._limited(
            dataclasses.replace(
                request,
                seed=new_seed(),
                steps=steps,
                # The model may be another now, and know other emoji.
                read_prompt=self._read("prompt", request.prompt),
                read_negative_prompt=self._read("negative prompt", request.negative_prompt),
            )
        )

    def _read(self, name: str, typed: str) -> str:
        """Return what the model is told in place of what a person typed."""
        read = spell_emoji(typed, self._profile.emoji)
        if typed.strip() and not read.strip():
            raise InvalidRequest(
                name, f"The {name} holds no character that can be seen; type it again."
            )
        return read

    def _limited(self, request: GenerationRequest) -> GenerationRequest:
        if request.steps > self._settings.max_steps:
            raise InvalidRequest(
                "steps",
                f"At most {self._settings.max_steps} steps are allowed here; you asked for "
                f"{request.steps}.",
            )
        for name, value in (("width", request.width), ("height", request.height)):
            if value > self._largest:
                raise InvalidRequest(
                    name,
                    f"A {name} of at most {self._largest} is allowed here with this model; you "
                    f"asked for {value}.",
                )
            if value % self._profile.size_multiple:
                raise InvalidRequest(
                    name,
                    f"The {name} is {value}, but this model needs a multiple of "
                    f"{self._profile.size_multiple}.",
                )
        return request


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
