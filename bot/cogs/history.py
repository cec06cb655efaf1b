"""/history: a person finds their own pictures again."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.ext import commands

from storage.records import HistoryEntry

from ..delivery.files import discord_files
from ..errors import NotVisible
from ..interactions.answers import answering
from ..interactions.concurrency import ConcurrencyLimit
from ..interactions.intake import within_deadline
from ..interactions.requester import requester_of
from ..interactions.services import Services
from ..ui import attachments, messages
from ..ui.views import finished_view

_CHOICES = 25
_LISTED = 10
# Answers that are searched, read and sent for one person at the same time.
_AT_ONCE = 3


class History(commands.Cog):
    """The /history command: a person's own prompts and pictures."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._limit = ConcurrencyLimit(_AT_ONCE)

    @app_commands.command()
    @app_commands.describe(search="Words from the prompt, or a job id; suggestions as you type")
    async def history(
        self,
        interaction: discord.Interaction[Any],
        search: app_commands.Range[str, 0, 100] | None = None,
    ) -> None:
        """Find your own pictures again; only you see the answer."""
        async with answering(interaction, private=True):
            with self._limit.slot_for(interaction.user.id):
                await self._answer(interaction, search or "")

    async def _answer(self, interaction: discord.Interaction[Any], search: str) -> None:
        entries = await within_deadline(
            interaction,
            self._services.lookup.history(interaction.user.id, search, _LISTED),
            ephemeral=True,
        )
        if len(entries) == 1 or (entries and search and _names(search, entries[0])):
            await self._show(interaction, entries[0])
        else:
            shown = await self._services.lookup.shown(entries, requester_of(interaction))
            hidden = {entry.job_id for entry in entries if entry not in shown}
            await self._say(interaction, messages.history(entries, search, hidden))

    async def _show(self, interaction: discord.Interaction[Any], entry: HistoryEntry) -> None:
        """Show one job with its pictures and buttons."""
        await self._services.lookup.check_age(entry, requester_of(interaction))
        # Reading, enlarging and sending pictures may take longer than Discord waits for an answer.
        if not interaction.response.is_done():
            await interaction.response.defer(thinking=True, ephemeral=True)
        job = await self._services.lookup.find_record(entry.job_id, requester_of(interaction))
        await self._services.lookup.check_is_there(entry.job_id, str(entry.job_id))
        async with self._services.memory.hold(attachments.bytes_to_show(job), interaction.user.id):
            pictures = await self._services.jobs.pictures(job)
            if not pictures:
                raise NotVisible(str(entry.job_id))
            parent = await self._services.lookup.parent(job)
            with discord_files(await self._services.files_of(job, pictures)) as files:
                text = messages.finished(job, pictures[0].image.recipe, parent)
                await self._say(
                    interaction,
                    f"{text}\n{messages.jump(entry)}",
                    files=files,
                    view=finished_view(job, [picture.image.index + 1 for picture in pictures]),
                )

    async def _say(
        self,
        interaction: discord.Interaction[Any],
        content: str,
        *,
        files: list[discord.File] = discord.utils.MISSING,
        view: discord.ui.View = discord.utils.MISSING,
    ) -> None:
        if interaction.response.is_done():
            await interaction.edit_original_response(content=content, attachments=files, view=view)
        else:
            await interaction.response.send_message(
                content, files=files, view=view, ephemeral=True, suppress_embeds=True
            )

    @history.autocomplete("search")
    async def suggest(
        self, interaction: discord.Interaction[Any], current: str
    ) -> list[app_commands.Choice[str]]:
        """Suggest the person's own jobs that match the text typed so far."""
        entries = await self._services.lookup.suggestions(
            requester_of(interaction), current, _CHOICES
        )
        return [
            app_commands.Choice(name=messages.choice_name(entry), value=str(entry.job_id))
            for entry in entries
        ]


def _names(search: str, entry: HistoryEntry) -> bool:
    """Return whether `search` is this entry's job id, which a chosen suggestion is."""
    return search.strip().removeprefix("#") == str(entry.job_id)
