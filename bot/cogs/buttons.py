"""What a click on a button does (`bot.ui.custom_ids` has the ids, `bot.ui.views` the buttons)."""

from __future__ import annotations

import re
from typing import Any, Final, Self

import discord
from discord.ui import Button, DynamicItem

from storage.records import NewJob

from ..interactions.answers import answering
from ..interactions.gated import Gated
from ..interactions.requester import requester_of
from ..interactions.services import services_of
from ..permissions.members import removal_by
from ..requests.reference import ImageReference
from ..ui import views
from ..ui.custom_ids import (
    DELETE_PATTERN,
    REMOVE_PATTERN,
    RERUN_COMMAND,
    RERUN_PATTERN,
    VARY_COMMAND,
    VARY_PATTERN,
    JobKey,
)


async def _check(interaction: discord.Interaction[Any], key: JobKey) -> None:
    """Return only if the clicked button is of a job that this database has.

    Raises:
        UnknownButton: it is of a job that another database had.
    """
    await services_of(interaction).lookup.check_button(interaction, key.job_id, key.token)


class RerunButton(Gated, DynamicItem[Button[Any]], template=RERUN_PATTERN):
    """🔁 makes new pictures from the same recipe."""

    def __init__(self, key: JobKey) -> None:
        super().__init__(views.rerun_button(key))
        self.key = key

    @classmethod
    async def from_custom_id(
        cls, _interaction: discord.Interaction[Any], _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(JobKey.read(match))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Queue the rerun."""
        async with answering(interaction):
            await services_of(interaction).intake.accept(interaction, self._new_job(interaction))

    async def _new_job(self, interaction: discord.Interaction[Any]) -> NewJob:
        await services_of(interaction).commands.check_click(interaction, RERUN_COMMAND)
        await _check(interaction, self.key)
        return await services_of(interaction).actions.rerun(
            requester_of(interaction), self.key.job_id
        )


class VaryButton(Gated, DynamicItem[Button[Any]], template=VARY_PATTERN):
    """🎲 makes a variation of one picture."""

    def __init__(self, key: JobKey, number: int) -> None:
        super().__init__(views.vary_button(key, number))
        self.key = key
        self.number = number

    @classmethod
    async def from_custom_id(
        cls, _interaction: discord.Interaction[Any], _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(JobKey.read(match), int(match["number"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Queue the variation."""
        async with answering(interaction):
            await services_of(interaction).intake.accept(interaction, self._new_job(interaction))

    async def _new_job(self, interaction: discord.Interaction[Any]) -> NewJob:
        await services_of(interaction).commands.check_click(interaction, VARY_COMMAND)
        await _check(interaction, self.key)
        picture = ImageReference(self.key.job_id, self.number)
        return await services_of(interaction).actions.vary(requester_of(interaction), picture)


class RemoveButton(Gated, DynamicItem[Button[Any]], template=REMOVE_PATTERN):
    """❌ cancels a job at once, and deletes its pictures after a question."""

    def __init__(self, key: JobKey) -> None:
        super().__init__(views.remove_button(key))
        self.key = key

    @classmethod
    async def from_custom_id(
        cls, _interaction: discord.Interaction[Any], _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(JobKey.read(match))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Cancel or delete."""
        async with answering(interaction):
            services = services_of(interaction)
            await interaction.response.defer()
            await _check(interaction, self.key)
            job = await services.lookup.find_removable(self.key.job_id, requester_of(interaction))
            if count := await services.lookup.pictures_of(job):
                question = f"Delete {count} picture{'' if count == 1 else 's'}?"
                view = views.delete_view(job)
                await interaction.followup.send(question, view=view, ephemeral=True)
            else:
                await services.jobs.cancel_or_remove(job, removal_by(job, interaction.user))


class DeleteButton(Gated, DynamicItem[Button[Any]], template=DELETE_PATTERN):
    """Deletes the pictures of a job. Only the person who clicked ❌ sees it."""

    def __init__(self, key: JobKey) -> None:
        super().__init__(views.delete_button(key))
        self.key = key

    @classmethod
    async def from_custom_id(
        cls, _interaction: discord.Interaction[Any], _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(JobKey.read(match))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Delete what may still be deleted by this person."""
        async with answering(interaction):
            services = services_of(interaction)
            await interaction.response.defer()
            await _check(interaction, self.key)
            job = await services.lookup.find_removable(self.key.job_id, requester_of(interaction))
            await services.jobs.cancel_or_remove(job, removal_by(job, interaction.user))
            await interaction.edit_original_response(content="Deleted.", view=None)


DYNAMIC_ITEMS: Final = (RerunButton, VaryButton, RemoveButton, DeleteButton)
