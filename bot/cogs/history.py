"""/history: find one's own pictures again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import discord
from discord import app_commands
from discord.ext import commands

from storage.records import HistoryEntry

from .. import replies
from ..actions import asker_of
from ..answers import answering
from ..buttons import finished_view
from ..concurrency import AtWork
from ..delivery import lent
from ..errors import NotVisible
from ..intake import within_deadline
from ..memory import PictureMemory

if TYPE_CHECKING:
    from ..client import ImagineBot

_CHOICES = 25
_LISTED = 10
# While they are looked for, read and sent.
_AT_ONCE = 3


class History(commands.Cog):
    """One's own prompts and pictures."""

    def __init__(self, bot: ImagineBot, memory: PictureMemory) -> None:
        self._bot = bot
        self._memory = memory
        self._at_work = AtWork(_AT_ONCE)

    @app_commands.command()
    @app_commands.describe(search="Words from the prompt, or a job id; suggestions as you type")
    async def history(
        self,
        interaction: discord.Interaction[ImagineBot],
        search: app_commands.Range[str, 0, 100] | None = None,
    ) -> None:
        """Find your own pictures again; only you see the answer."""
        async with answering(interaction, private=True):
            with self._at_work.one_for(interaction.user.id):
                await self._answer(interaction, search or "")

    async def _answer(self, interaction: discord.Interaction[ImagineBot], search: str) -> None:
        entries = await within_deadline(
            interaction,
            self._bot.service.jobs.history(interaction.user.id, search, _LISTED),
            ephemeral=True,
        )
        if len(entries) == 1 or (entries and search and _names(search, entries[0])):
            await self._show(interaction, entries[0])
        else:
            shown = await self._bot.actions.shown(entries, asker_of(interaction))
            hidden = {entry.job_id for entry in entries if entry not in shown}
            await self._say(interaction, replies.history(entries, search, hidden))

    async def _show(
        self, interaction: discord.Interaction[ImagineBot], entry: HistoryEntry
    ) -> None:
        """Show one job again, with its pictures and buttons."""
        await self._bot.actions.check_age(entry, asker_of(interaction))
        # Reading, enlarging and sending several pictures may take longer than Discord waits.
        if not interaction.response.is_done():
            await interaction.response.defer(thinking=True, ephemeral=True)
        job = await self._bot.actions.find_shown(entry.job_id, asker_of(interaction))
        await self._bot.actions.check_is_there(entry.job_id, str(entry.job_id))
        async with self._memory.hold(replies.bytes_to_show(job), interaction.user.id):
            pictures = await self._bot.service.pictures(job)
            if not pictures:
                raise NotVisible(str(entry.job_id))
            parent = await self._bot.service.jobs.parent(job)
            with lent(await self._bot.courier.files(job, pictures)) as files:
                text = replies.finished(job, pictures[0].image.recipe, parent)
                await self._say(
                    interaction,
                    f"{text}\n{replies.jump(entry)}",
                    files=files,
                    view=finished_view(job, [picture.image.index + 1 for picture in pictures]),
                )

    async def _say(
        self,
        interaction: discord.Interaction[ImagineBot],
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
        self, interaction: discord.Interaction[ImagineBot], current: str
    ) -> list[app_commands.Choice[str]]:
        """Suggest the person's own jobs that match what is typed so far."""
        entries = await self._bot.actions.suggestions(asker_of(interaction), current, _CHOICES)
        return [
            app_commands.Choice(name=replies.choice_name(entry), value=str(entry.job_id))
            for entry in entries
        ]


def _names(search: str, entry: HistoryEntry) -> bool:
    """Return whether `search` is this entry's job id, as a chosen suggestion is."""
    return search.strip().removeprefix("#") == str(entry.job_id)


async def setup(bot: ImagineBot) -> None:
    """Add the cog; called by `load_extension`."""
    await bot.add_cog(History(bot, bot.memory))
