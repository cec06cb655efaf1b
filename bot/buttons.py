"""Buttons that never expire: a custom id holds only ids, and the rest is looked up.

rerun:JOB            🔁  the same recipe with a new seed
vary:JOB:NUMBER      🎲  a variation of picture NUMBER
remove:JOB           ❌  cancel it, or delete its message and pictures
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import discord
from discord.ui import Button, DynamicItem, View

from storage.records import Job, NewJob

from .access import check_may_use
from .actions import asker_of
from .answers import answering
from .requests import ImageReference

if TYPE_CHECKING:
    from .client import ImagineBot

RERUN_EMOJI: Final = "🔁"
VARY_EMOJI: Final = "🎲"
REMOVE_EMOJI: Final = "❌"

# Whoever may not use the command may not use what does the same.
RERUN_COMMAND: Final = "imagine"
VARY_COMMAND: Final = "vary"

RERUN_ID: Final = "rerun:{job}"
VARY_ID: Final = "vary:{job}:{number}"
REMOVE_ID: Final = "remove:{job}"


class RerunButton(DynamicItem[Button[Any]], template=r"rerun:(?P<job>\d+)"):
    """🔁 makes new pictures from the same recipe."""

    def __init__(self, job_id: int) -> None:
        super().__init__(Button(emoji=RERUN_EMOJI, custom_id=RERUN_ID.format(job=job_id)))
        self.job_id = job_id

    @classmethod
    async def from_custom_id(
        cls, _interaction: discord.Interaction[Any], _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(int(match["job"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Queue the rerun."""
        async with answering(interaction):
            await interaction.client.intake.accept(interaction, self._order(interaction))

    async def _order(self, interaction: discord.Interaction[ImagineBot]) -> NewJob:
        await check_may_use(interaction, RERUN_COMMAND)
        return await interaction.client.actions.rerun(asker_of(interaction), self.job_id)


class VaryButton(DynamicItem[Button[Any]], template=r"vary:(?P<job>\d+):(?P<number>\d+)"):
    """🎲 makes a variation of one picture; with several pictures it is labelled by number."""

    def __init__(self, job_id: int, number: int, *, numbered: bool = False, row: int = 0) -> None:
        super().__init__(
            Button(
                emoji=VARY_EMOJI,
                label=str(number) if numbered else None,
                custom_id=VARY_ID.format(job=job_id, number=number),
                row=row,
            )
        )
        self.job_id = job_id
        self.number = number

    @classmethod
    async def from_custom_id(
        cls, _interaction: discord.Interaction[Any], _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(int(match["job"]), int(match["number"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Queue the variation."""
        async with answering(interaction):
            await interaction.client.intake.accept(interaction, self._order(interaction))

    async def _order(self, interaction: discord.Interaction[ImagineBot]) -> NewJob:
        await check_may_use(interaction, VARY_COMMAND)
        picture = ImageReference(self.job_id, self.number)
        return await interaction.client.actions.vary(asker_of(interaction), picture)


class RemoveButton(DynamicItem[Button[Any]], template=r"remove:(?P<job>\d+)"):
    """❌ cancels a job or deletes its pictures."""

    def __init__(self, job_id: int) -> None:
        super().__init__(Button(emoji=REMOVE_EMOJI, custom_id=REMOVE_ID.format(job=job_id)))
        self.job_id = job_id

    @classmethod
    async def from_custom_id(
        cls, _interaction: discord.Interaction[Any], _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(int(match["job"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Cancel or delete."""
        async with answering(interaction):
            bot: ImagineBot = interaction.client
            await interaction.response.defer()
            job = await bot.actions.find_removable(self.job_id, asker_of(interaction))
            await bot.service.cancel_or_remove(job)


DYNAMIC_ITEMS: Final = (RerunButton, VaryButton, RemoveButton)


def waiting_view(job: Job) -> View:
    """Return the buttons of a job that is not finished."""
    return _view(RemoveButton(job.id))


def cancelled_view(job: Job) -> View:
    """Return the buttons of a job that came to nothing."""
    return _view(RerunButton(job.id), RemoveButton(job.id))


def finished_view(job: Job, numbers: Sequence[int]) -> View:
    """Return the buttons below the pictures with these numbers."""
    if len(numbers) == 1:
        return _view(RerunButton(job.id), VaryButton(job.id, numbers[0]), RemoveButton(job.id))
    varies = (VaryButton(job.id, number, numbered=True, row=1) for number in numbers)
    return _view(RerunButton(job.id), RemoveButton(job.id), *varies)


def _view(*items: DynamicItem[Button[Any]]) -> View:
    view = View(timeout=None)
    for item in items:
        view.add_item(item)
    return view
