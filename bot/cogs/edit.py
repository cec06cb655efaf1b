"""/edit: pictures by an instruction about others. Only a bot with a model that can edit has it."""

from __future__ import annotations

import asyncio
from typing import Any

import discord
from discord import app_commands
from discord.ext import commands

from generation.values.pixels import Pixels
from generation.values.request import COUNT_MAX, PROMPT_LENGTH, SEED_MAX
from storage.records import JobKind, NewJob

from ..errors import MissingInput
from ..interactions.answers import answering
from ..interactions.requester import Requester, requester_of
from ..interactions.services import Services
from ..requests.downloading import download_source
from ..requests.mentions import resolve_mentions
from ..requests.options import RequestOptions
from ..requests.reference import ImageReference
from ..requests.uploads import Uploads
from .models import MODEL_NAME, suggest_editors
from .vary import REFERENCE_LENGTH, suggest_pictures


class Edit(commands.Cog):
    """The /edit command."""

    def __init__(self, services: Services, uploads: Uploads) -> None:
        self._services = services
        self._uploads = uploads

    @app_commands.command()
    @app_commands.describe(
        instruction="What to change, such as: make it winter",
        image="A picture of your own",
        image_2="Another picture to use, such as: put the hat of the second picture on the cat",
        image_3="Another picture to use",
        image_4="Another picture to use",
        picture="Or one of the bot's pictures: job and number, such as 42-1; it comes first",
        count="How many pictures",
        seed="The same seed and settings give the same picture",
        model="The model; left out, the first that can edit",
    )
    @app_commands.autocomplete(model=suggest_editors, picture=suggest_pictures)
    async def edit(
        self,
        interaction: discord.Interaction[Any],
        instruction: app_commands.Range[str, 1, PROMPT_LENGTH],
        image: discord.Attachment | None = None,
        image_2: discord.Attachment | None = None,
        image_3: discord.Attachment | None = None,
        image_4: discord.Attachment | None = None,
        picture: app_commands.Range[str, 1, REFERENCE_LENGTH] | None = None,
        count: app_commands.Range[int, 1, COUNT_MAX] | None = None,
        seed: app_commands.Range[int, 0, SEED_MAX] | None = None,
        model: app_commands.Range[str, 1, MODEL_NAME] | None = None,
    ) -> None:
        """Change pictures by an instruction in words."""
        async with answering(interaction):
            options = RequestOptions(prompt=instruction, count=count, seed=seed, model=model)
            given = (image, image_2, image_3, image_4)
            attachments = [attachment for attachment in given if attachment is not None]

            async def new_job() -> NewJob:
                resolved = await resolve_mentions(interaction, options)
                return await self._new_job(
                    requester_of(interaction), picture, attachments, resolved
                )

            await self._services.intake.accept(interaction, new_job())

    async def _new_job(
        self,
        requester: Requester,
        picture: str | None,
        attachments: list[discord.Attachment],
        options: RequestOptions,
    ) -> NewJob:
        if picture is None and not attachments:
            raise MissingInput("Say what to edit: add an image, or give picture, such as 42-1.")
        builder = self._services.models.editor(options.model, requester)
        own = None if picture is None else ImageReference.parse(picture)
        count, owner = len(attachments) + (own is not None), requester.person.id
        builder.check_references(count)
        references, parent = list[Pixels](), None
        async with self._uploads.held_references(owner, attachments, count):
            if own is not None:
                parent, pixels = await self._services.actions.reference(requester, own, builder)
                references.append(pixels)
            references += await self._uploads.references(
                owner, attachments, download_source, builder=builder
            )
            request = await asyncio.to_thread(
                builder.edit_of, references, options, guild_id=requester.guild_id
            )
        if own is not None:
            await self._services.lookup.check_is_there(own.job_id, str(own))
        return requester.new_job(
            JobKind.EDIT, request, parent_image_id=None if parent is None else parent.id
        )
