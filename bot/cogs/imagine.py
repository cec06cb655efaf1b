"""/imagine: new pictures from a prompt."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import discord
from discord import app_commands
from discord.ext import commands

from generation.schedulers.registry import REGISTRY
from generation.values.request import (
    COUNT_MAX,
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    PROMPT_LENGTH,
    SEED_MAX,
    SIZE_MAX,
    SIZE_MIN,
    SIZE_MULTIPLE,
    STEPS_MAX,
    STEPS_MIN,
    Spacing,
)
from storage.records import JobKind, NewJob

from ..interactions.answers import answering
from ..interactions.requester import requester_of
from ..interactions.services import Services
from ..requests.mentions import resolve_mentions
from ..requests.options import RequestOptions
from .loras import LORAS_LENGTH, chosen, suggest_loras
from .models import MODEL_NAME, suggest_models

_NAME_LENGTH: Final = 40
# Discord shows no more.
_CHOICES_MAX: Final = 25


class Imagine(commands.Cog):
    """The /imagine command."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @app_commands.command()
    @app_commands.describe(
        prompt="What you want to see",
        negative_prompt="What you do not want to see",
        seed="The same seed and settings give the same picture",
        steps="More steps take longer and look more finished",
        guidance_scale="How closely to follow the prompt",
        width=f"In pixels, a multiple of {SIZE_MULTIPLE}",
        height=f"In pixels, a multiple of {SIZE_MULTIPLE}",
        scheduler="The method of denoising",
        spacing="How the noise levels of the steps are spaced",
        count="How many pictures",
        model="The model that makes the pictures; /models says more",
        lora="A LoRA and perhaps its weight, such as ink:0.8; several with commas",
    )
    @app_commands.autocomplete(model=suggest_models, lora=suggest_loras)
    async def imagine(
        self,
        interaction: discord.Interaction[Any],
        prompt: app_commands.Range[str, 1, PROMPT_LENGTH],
        negative_prompt: app_commands.Range[str, 0, PROMPT_LENGTH] | None = None,
        seed: app_commands.Range[int, 0, SEED_MAX] | None = None,
        steps: app_commands.Range[int, STEPS_MIN, STEPS_MAX] | None = None,
        guidance_scale: app_commands.Range[float, GUIDANCE_MIN, GUIDANCE_MAX] | None = None,
        width: app_commands.Range[int, SIZE_MIN, SIZE_MAX] | None = None,
        height: app_commands.Range[int, SIZE_MIN, SIZE_MAX] | None = None,
        scheduler: app_commands.Range[str, 1, _NAME_LENGTH] | None = None,
        spacing: Spacing | None = None,
        count: app_commands.Range[int, 1, COUNT_MAX] | None = None,
        model: app_commands.Range[str, 1, MODEL_NAME] | None = None,
        lora: app_commands.Range[str, 1, LORAS_LENGTH] | None = None,
    ) -> None:
        """Make pictures from a prompt."""
        async with answering(interaction):
            options = RequestOptions(
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                steps=steps,
                guidance_scale=guidance_scale,
                width=width,
                height=height,
                scheduler=scheduler,
                spacing=spacing,
                count=count,
                model=model,
                loras=chosen(lora),
            )
            await self._services.intake.accept(interaction, self._new_job(interaction, options))

    @imagine.autocomplete("scheduler")
    async def suggest_schedulers(
        self, interaction: discord.Interaction[Any], typed: str
    ) -> list[app_commands.Choice[str]]:
        """Suggest the schedulers that fit the model, as far as it is chosen."""
        models, requester = self._services.models, requester_of(interaction)
        builder = models.named_or_default(getattr(interaction.namespace, "model", None), requester)
        names = builder.schedulers.suggest(typed)[:_CHOICES_MAX]
        return [app_commands.Choice(name=REGISTRY[name].label, value=name) for name in names]

    async def _new_job(
        self, interaction: discord.Interaction[Any], options: RequestOptions
    ) -> NewJob:
        requester = requester_of(interaction)
        options = await resolve_mentions(interaction, options)
        builder = self._services.models.named(options.model, requester)
        request = await asyncio.to_thread(builder.imagine, options, guild_id=requester.guild_id)
        return requester.new_job(JobKind.IMAGINE, request)
