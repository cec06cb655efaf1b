"""From the options that a person typed to a checked request: defaults, limits and seeds."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import TypeVar

from PIL import Image

from generation.catalog.addons.loras import NO_INVERSIONS, NO_LORAS, LoraLibrary
from generation.catalog.profile import ModelProfile
from generation.errors import InvalidRequest
from generation.images.files import Fit, ReferenceFit
from generation.images.pillow import fitted_size, reference_pixels, to_pixels
from generation.values.pixels import Pixels, StoredPixels
from generation.values.recipe import Recipe
from generation.values.request import (
    GUIDANCE_MIN,
    SEED_MAX,
    SIZE_MULTIPLE,
    GenerationRequest,
)
from generation.values.spelling import spell_emoji

from .limits import Limits, LimitsSource
from .loras import LoraOptions, find_inversions, without_tags
from .options import RequestOptions
from .schedulers import SchedulerChoices
from .varying import check_can_follow, varied

T = TypeVar("T")


def new_seed() -> int:
    """Return a random seed, for a person who chose none."""
    return secrets.randbelow(SEED_MAX + 1)


class RequestBuilder:
    """Builds requests to one model, with the limits and defaults of the server `guild_id`.

    `model` is the name that the requests carry; None stands for the default model.

    All methods raise InvalidRequest for a value that is out of range or above a limit. Those that
    read a prompt for the first time look at the folders of LoRAs and embeddings, and belong on a
    thread; `rerun` reads no file.
    """

    def __init__(
        self,
        limits: LimitsSource,
        profile: ModelProfile,
        model: str | None = None,
        *,
        library: LoraLibrary = NO_LORAS,
        inversions: LoraLibrary = NO_INVERSIONS,
    ) -> None:
        self._limits = limits
        self._profile = profile
        self._model = model
        self.loras = LoraOptions(library, profile)
        self._inversions = inversions
        self.schedulers = SchedulerChoices(profile)

    def imagine(self, options: RequestOptions, *, guild_id: int | None) -> GenerationRequest:
        """Return the request for new pictures."""
        limits = self._limits.limits_for(guild_id)
        prompt, negative = _or(options.prompt, ""), _or(options.negative_prompt, "")
        text, loras = self.loras.read(prompt, options.loras or ())
        scheduler, spacing = self.schedulers.choose(
            options.scheduler, options.spacing, default=limits.default_scheduler
        )
        request = GenerationRequest(
            prompt=prompt,
            negative_prompt=negative,
            read_prompt=self._read("prompt", text),
            read_negative_prompt=self._read("negative prompt", negative),
            seed=new_seed() if options.seed is None else options.seed,
            steps=_or(options.steps, self.schedulers.steps(scheduler, limits.default_steps)),
            guidance_scale=self._guidance(
                _or(options.guidance_scale, limits.default_guidance_scale)
            ),
            width=_or(options.width, limits.default_size),
            height=_or(options.height, limits.default_size),
            scheduler=scheduler,
            spacing=spacing,
            guidance_rescale=_or(options.guidance_rescale, self._profile.default_guidance_rescale),
            count=_or(options.count, 1),
            model=self._model,
            loras=loras,
            inversions=find_inversions(self._inversions, self._profile, text, negative),
        )
        return self._checked(request, limits)

    def similar(
        self, image: Image.Image, options: RequestOptions, *, guild_id: int | None
    ) -> GenerationRequest:
        """Return the request for pictures similar to an image of any size, in its shape."""
        fit = self.fit(options, guild_id=guild_id)
        width, height = fitted_size(
            *image.size, native=fit.native, multiple=fit.multiple, most=fit.most
        )
        # Checked before the image is scaled: a wrong size must not cost memory first.
        plain = self.imagine(
            dataclasses.replace(
                options,
                width=_or(options.width, width),
                height=_or(options.height, height),
            ),
            guild_id=guild_id,
        )
        source = to_pixels(image, plain.width, plain.height)
        return self._from_source(source, plain, options, guild_id)

    def fit(self, options: RequestOptions, *, guild_id: int | None) -> Fit:
        """Return the size to which an uploaded file is scaled."""
        return Fit(
            native=self._profile.native_size,
            multiple=max(self._profile.size_multiple, SIZE_MULTIPLE),
            most=min(self._limits.limits_for(guild_id).max_size, self._profile.default_max_size),
            width=options.width,
            height=options.height,
        )

    def similar_to(
        self, pixels: Pixels, options: RequestOptions, *, guild_id: int | None
    ) -> GenerationRequest:
        """Return the request for pictures similar to pixels that have the size of `fit` already."""
        sized = dataclasses.replace(options, width=pixels.width, height=pixels.height)
        plain = self.imagine(sized, guild_id=guild_id)
        return self._from_source(pixels, plain, options, guild_id)

    def variation(
        self,
        recipe: Recipe,
        picture: Image.Image,
        options: RequestOptions,
        *,
        guild_id: int | None,
        references: Sequence[Pixels | StoredPixels] = (),
    ) -> GenerationRequest:
        """Return the request for a variation of one of the bot's pictures, by its own recipe.

        `references` are those that the picture was made with. While the prompt stays the same, it
        is an instruction about them, so the variation has them too.
        """
        followed = tuple(references) if options.prompt is None else ()
        if followed:
            check_can_follow(self._profile, len(followed), self._model)
        limits = self._limits.limits_for(guild_id)
        wanted = varied(recipe, options, self._profile, limits, self.schedulers)
        request = self.similar(picture, wanted, guild_id=guild_id)
        return dataclasses.replace(request, references=followed)

    def rerun(self, request: GenerationRequest, *, guild_id: int | None) -> GenerationRequest:
        """Return the same request with a random seed."""
        # The model may be another now, which cannot edit.
        self.check_references(len(request.references))
        limits = self._limits.limits_for(guild_id)
        scheduler, spacing = self.schedulers.keep(
            request.scheduler, request.spacing, default=limits.default_scheduler
        )
        again = dataclasses.replace(
            request,
            seed=new_seed(),
            # The limit may be lower now, as for a variation.
            steps=min(request.steps, limits.max_steps),
            model=self._model,
            guidance_scale=self._guidance(request.guidance_scale),
            # The model may be another now, with other schedulers and other emoji.
            scheduler=scheduler,
            spacing=spacing,
            read_prompt=self._read("prompt", without_tags(request.prompt, request.loras)),
            read_negative_prompt=self._read("negative prompt", request.negative_prompt),
        )
        return self._checked(again, limits)

    def edit(
        self, images: Sequence[Image.Image], options: RequestOptions, *, guild_id: int | None
    ) -> GenerationRequest:
        """Return the request for pictures by an instruction about `images`, in the first's shape.

        Raises:
            InvalidSource: an image has a shape that no reference may have.
        """
        self.check_references(len(images))
        multiple = self.reference_fit.multiple
        references = [reference_pixels(image, multiple) for image in images]
        return self.edit_of(references, options, guild_id=guild_id)

    def edit_of(
        self, references: Sequence[Pixels], options: RequestOptions, *, guild_id: int | None
    ) -> GenerationRequest:
        """Do the same as `edit` for pixels that have the size of `reference_fit` already."""
        self.check_references(len(references))
        fit = self.fit(options, guild_id=guild_id)
        width, height = fitted_size(
            references[0].width,
            references[0].height,
            native=fit.native,
            multiple=fit.multiple,
            most=fit.most,
        )
        sized = dataclasses.replace(
            options, width=_or(options.width, width), height=_or(options.height, height)
        )
        plain = self.imagine(sized, guild_id=guild_id)
        return dataclasses.replace(plain, references=tuple(references))

    @property
    def reference_fit(self) -> ReferenceFit:
        """Return the size to which an uploaded reference is scaled."""
        return ReferenceFit(multiple=self._profile.size_multiple)

    def check_references(self, count: int) -> None:
        """Refuse more references than the model reads, before a file is read."""
        self._profile.check_references(count, self._model)

    def _from_source(
        self,
        source: Pixels,
        plain: GenerationRequest,
        options: RequestOptions,
        guild_id: int | None,
    ) -> GenerationRequest:
        default = self._limits.limits_for(guild_id).default_strength
        return dataclasses.replace(plain, source=source, strength=_or(options.strength, default))

    def _guidance(self, scale: float) -> float:
        """Return the guidance scale that counts: some distilled models ignore the wanted one."""
        return scale if self._profile.heeds_guidance else GUIDANCE_MIN

    def _read(self, name: str, typed: str) -> str:
        """Return the text that the model reads for a prompt: emoji are spelled out."""
        read = spell_emoji(typed, self._profile.emoji)
        if typed.strip() and not read.strip():
            raise InvalidRequest(name, f"The {name} has no visible character; type it again.")
        return read

    def _checked(self, request: GenerationRequest, limits: Limits) -> GenerationRequest:
        if request.steps > limits.max_steps:
            raise InvalidRequest(
                "steps",
                f"At most {limits.max_steps} steps are allowed here; you asked for "
                f"{request.steps}.",
            )
        self.schedulers.check(request)
        for name, value in (("width", request.width), ("height", request.height)):
            if value > limits.max_size:
                raise InvalidRequest(
                    name,
                    f"A {name} of at most {limits.max_size} is allowed here with this model; you "
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
