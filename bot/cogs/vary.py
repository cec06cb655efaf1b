"""/vary: pictures similar to one of the bot's own, or to an uploaded image."""

from __future__ import annotations

from typing import Any, Final

import discord
from discord import app_commands
from discord.ext import commands

from generation.values.request import PROMPT_LENGTH, SEED_MAX, STRENGTH_MAX, STRENGTH_MIN
from storage.records import JobKind, NewJob

from ..errors import MissingInput
from ..interactions.answers import answering
from ..interactions.requester import Requester, requester_of
from ..interactions.services import Services, services_of
from ..requests.downloading import download_source
from ..requests.mentions import resolve_mentions
from ..requests.options import RequestOptions
from ..requests.reference import ImageReference
from ..requests.uploads import Uploads
from ..ui.messages import choice_name
from .loras import LORAS_LENGTH, chosen, suggest_loras
from .models import MODEL_NAME, suggest_models

_CHOICES: Final = 25
# Until a person chooses a suggestion, the option holds words to search for.
REFERENCE_LENGTH: Final = 100


async def suggest_pictures(
    interaction: discord.Interaction[Any], current: str
) -> list[app_commands.Choice[str]]:
    """Suggest the person's own pictures, first those whose number starts with the text."""
    lookup = services_of(interaction).lookup
    entries = await lookup.suggestions(requester_of(interaction), current, _CHOICES)
    choices = [
        app_commands.Choice(name=choice_name(entry, number), value=f"{entry.job_id}-{number}")
        for entry in entries
        for number in range(1, entry.count + 1)
    ]
    choices.sort(key=lambda choice: not choice.value.startswith(current.strip()))
    return choices[:_CHOICES]


class Vary(commands.Cog):
    """The /vary command."""

    def __init__(self, services: Services, uploads: Uploads) -> None:
        self._services = services
        self._uploads = uploads

    @app_commands.command()
    @app_commands.describe(
        image="One of the bot's pictures: job and number, such as 42-1",
        attachment="Or a picture of your own",
        strength="From 0.05, almost the same, to 1, almost all new",
        prompt="What it should become; the picture's own prompt when left out",
        negative_prompt="What you do not want to see",
        seed="The same seed and settings give the same picture",
        model="The model; left out, the one that made the picture",
        lora="A LoRA and perhaps its weight, such as ink:0.8; left out, those of the picture",
    )
    @app_commands.autocomplete(model=suggest_models, lora=suggest_loras, image=suggest_pictures)
    async def vary(
        self,
        interaction: discord.Interaction[Any],
        image: app_commands.Range[str, 1, REFERENCE_LENGTH] | None = None,
        attachment: discord.Attachment | None = None,
        strength: app_commands.Range[float, STRENGTH_MIN, STRENGTH_MAX] | None = None,
        prompt: app_commands.Range[str, 1, PROMPT_LENGTH] | None = None,
        negative_prompt: app_commands.Range[str, 0, PROMPT_LENGTH] | None = None,
        seed: app_commands.Range[int, 0, SEED_MAX] | None = None,
        model: app_commands.Range[str, 1, MODEL_NAME] | None = None,
        lora: app_commands.Range[str, 1, LORAS_LENGTH] | None = None,
    ) -> None:
        """Make a picture similar to another."""
        async with answering(interaction):
            options = RequestOptions(
                prompt=prompt,
                negative_prompt=negative_prompt,
                strength=strength,
                seed=seed,
                model=model,
                loras=chosen(lora),
            )

            async def new_job() -> NewJob:
                resolved = await resolve_mentions(interaction, options)
                return await self._new_job(requester_of(interaction), image, attachment, resolved)

            await self._services.intake.accept(interaction, new_job())

    async def _new_job(
        self,
        requester: Requester,
        image: str | None,
        attachment: discord.Attachment | None,
        options: RequestOptions,
    ) -> NewJob:
        if image is not None and attachment is None:
            reference = ImageReference.parse(image)
            new_job = await self._services.actions.vary(requester, reference, options)
            await self._services.lookup.check_is_there(reference.job_id, str(reference))
            return new_job
        if attachment is not None and image is None:
            return await self._from_upload(requester, attachment, options)
        raise MissingInput(
            "Say which picture to vary: give either image, such as 42-1, or attachment."
        )

    async def _from_upload(
        self, requester: Requester, attachment: discord.Attachment, options: RequestOptions
    ) -> NewJob:
        request = await self._uploads.request(
            requester.person.id,
            attachment,
            options,
            download_source,
            builder=self._services.models.named(options.model, requester),
            guild_id=requester.guild_id,
        )
        return requester.new_job(JobKind.VARY, request)
