"""What a variation of one of the bot's pictures asks for, as far as a person left it open."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from generation.catalog.profile import ModelProfile
from generation.errors import InvalidRequest
from generation.values.lora import split_tags
from generation.values.recipe import Recipe

from .limits import Limits
from .loras import chosen_for
from .options import RequestOptions
from .schedulers import SchedulerChoices

T = TypeVar("T")


def varied(
    recipe: Recipe,
    options: RequestOptions,
    profile: ModelProfile,
    limits: Limits,
    schedulers: SchedulerChoices,
) -> RequestOptions:
    """Return `options` with the values of a picture's recipe where a person left them out.

    The LoRAs are those of the recipe. So a prompt that is kept loses the tags that named them, and
    tags that were text, because the picture is older than LoRAs. Another model than the picture's
    keeps its own steps, guidance and scheduler.
    """
    wanted = dataclasses.replace(
        options,
        prompt=_or(options.prompt, split_tags(recipe.prompt)[0]),
        negative_prompt=_or(options.negative_prompt, recipe.negative_prompt),
        loras=_or(options.loras, chosen_for(recipe)),
    )
    sides = (recipe.width, recipe.height)
    if all(side <= limits.max_size and side % profile.size_multiple == 0 for side in sides):
        wanted = dataclasses.replace(
            wanted,
            width=_or(options.width, recipe.width),
            height=_or(options.height, recipe.height),
        )
    if recipe.model != profile.name:
        return wanted
    scheduler, spacing = schedulers.keep(
        recipe.scheduler, recipe.spacing, default=limits.default_scheduler
    )
    return dataclasses.replace(
        wanted,
        scheduler=_or(options.scheduler, scheduler),
        spacing=_or(options.spacing, spacing),
        # The limit may be lower now; the person did not ask for more.
        steps=_or(options.steps, min(recipe.steps, limits.max_steps)),
        guidance_scale=_or(options.guidance_scale, recipe.guidance_scale),
        guidance_rescale=_or(options.guidance_rescale, recipe.guidance_rescale),
    )


def check_can_follow(profile: ModelProfile, references: int, called: str | None) -> None:
    """Refuse to run an instruction about references on a model that cannot edit.

    Raises:
        InvalidRequest: the model reads no references, or fewer.
    """
    if not profile.most_references:
        raise InvalidRequest(
            "prompt",
            f"This picture was made by an instruction, and the model {called or profile.name} "
            "cannot edit; add a prompt that says what to see, or use a model that can edit.",
        )
    profile.check_references(references, called)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
