"""Buttons that never expire: a custom id holds only ids, and the rest is looked up.

rerun:TOKEN.JOB          🔁  the same recipe with a new seed
vary:TOKEN.JOB:NUMBER    🎲  a variation of picture NUMBER
remove:TOKEN.JOB         ❌  cancel it, or ask whether its pictures are to be deleted
delete:TOKEN.JOB             delete its message and pictures

TOKEN tells the job from one of the same number in another database (`storage.records.Job`). The
buttons of the first version are without it: they count below the job's own message only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import discord
from discord import ButtonStyle
from discord.ui import Button, DynamicItem, View

from storage.records import Job, NewJob

from .access import check_may_use, removal_by
from .actions import asker_of
from .answers import answering
from .gate import Gated
from .requests import ImageReference

if TYPE_CHECKING:
    from .client import ImagineBot

RERUN_EMOJI: Final = "🔁"
VARY_EMOJI: Final = "🎲"
REMOVE_EMOJI: Final = "❌"

# A person who may not use the command may not use the button that does the same.
RERUN_COMMAND: Final = "imagine"
VARY_COMMAND: Final = "vary"

RERUN_ID: Final = "rerun:{job}"
VARY_ID: Final = "vary:{job}:{number}"
REMOVE_ID: Final = "remove:{job}"
DELETE_ID: Final = "delete:{job}"
_JOB: Final = r"(?:(?P<token>[0-9a-f]{1,32})\.)?(?P<job>\d{1,19})"


@dataclass(frozen=True, slots=True)
class JobKey:
    """Which job a button is of; `token` is None in one of the first version."""

    job_id: int
    token: str | None

    def __str__(self) -> str:
        return str(self.job_id) if self.token is None else f"{self.token}.{self.job_id}"

    @classmethod
    def of(cls, job: Job) -> JobKey:
        """Return the key of a job."""
        return cls(job.id, job.token or None)

    @classmethod
    def read(cls, match: re.Match[str]) -> JobKey:
        """Return the key in a custom id."""
        return cls(int(match["job"]), match["token"])

    async def check(self, interaction: discord.Interaction[ImagineBot]) -> None:
        """Return only if the button that was clicked is of the job with this id here.

        Raises:
            UnknownButton: it is of a job that another database had.
        """
        await interaction.client.actions.check_button(interaction, self.job_id, self.token)


def remove_ids(job: Job) -> tuple[str, str]:
    """Return the custom ids of a job's ❌: today's, and that of the first version."""
    return REMOVE_ID.format(job=JobKey.of(job)), REMOVE_ID.format(job=job.id)


class RerunButton(Gated, DynamicItem[Button[Any]], template=rf"rerun:{_JOB}"):
    """🔁 makes new pictures from the same recipe."""

    def __init__(self, key: JobKey) -> None:
        super().__init__(Button(emoji=RERUN_EMOJI, custom_id=RERUN_ID.format(job=key)))
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
            await interaction.client.intake.accept(interaction, self._order(interaction))

    async def _order(self, interaction: discord.Interaction[ImagineBot]) -> NewJob:
        await check_may_use(interaction, RERUN_COMMAND)
        await self.key.check(interaction)
        return await interaction.client.actions.rerun(asker_of(interaction), self.key.job_id)


class VaryButton(Gated, DynamicItem[Button[Any]], template=rf"vary:{_JOB}:(?P<number>\d{{1,2}})"):
    """🎲 makes a variation of one picture; with several pictures it is labelled by number."""

    def __init__(self, key: JobKey, number: int, *, numbered: bool = False, row: int = 0) -> None:
        super().__init__(
            Button(
                emoji=VARY_EMOJI,
                label=str(number) if numbered else None,
                custom_id=VARY_ID.format(job=key, number=number),
                row=row,
            )
        )
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
            await interaction.client.intake.accept(interaction, self._order(interaction))

    async def _order(self, interaction: discord.Interaction[ImagineBot]) -> NewJob:
        await check_may_use(interaction, VARY_COMMAND)
        await self.key.check(interaction)
        picture = ImageReference(self.key.job_id, self.number)
        return await interaction.client.actions.vary(asker_of(interaction), picture)


class RemoveButton(Gated, DynamicItem[Button[Any]], template=rf"remove:{_JOB}"):
    """❌ cancels a job at once, and deletes its pictures after a question."""

    def __init__(self, key: JobKey) -> None:
        super().__init__(Button(emoji=REMOVE_EMOJI, custom_id=REMOVE_ID.format(job=key)))
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
            bot: ImagineBot = interaction.client
            await interaction.response.defer()
            await self.key.check(interaction)
            job = await bot.actions.find_removable(self.key.job_id, asker_of(interaction))
            if count := await bot.actions.pictures_of(job):
                question = f"Delete {count} picture{'' if count == 1 else 's'}?"
                view = _view(DeleteButton(JobKey.of(job)))
                await interaction.followup.send(question, view=view, ephemeral=True)
            else:
                await bot.service.cancel_or_remove(job, removal_by(job, interaction.user))


class DeleteButton(Gated, DynamicItem[Button[Any]], template=rf"delete:{_JOB}"):
    """Deletes the pictures of a job, which ❌ asks about before; only who clicked that sees it."""

    def __init__(self, key: JobKey) -> None:
        button = Button[Any](
            label="Delete", style=ButtonStyle.danger, custom_id=DELETE_ID.format(job=key)
        )
        super().__init__(button)
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
            bot: ImagineBot = interaction.client
            await interaction.response.defer()
            await self.key.check(interaction)
            job = await bot.actions.find_removable(self.key.job_id, asker_of(interaction))
            await bot.service.cancel_or_remove(job, removal_by(job, interaction.user))
            await interaction.edit_original_response(content="Deleted.", view=None)


DYNAMIC_ITEMS: Final = (RerunButton, VaryButton, RemoveButton, DeleteButton)


def waiting_view(job: Job) -> View:
    """Return the buttons of a job that is not finished."""
    return _view(RemoveButton(JobKey.of(job)))


def cancelled_view(job: Job) -> View:
    """Return the buttons of a job that came to nothing.

    What it was made from is not kept then, if it was sent for it alone: it cannot be made again.
    """
    key = JobKey.of(job)
    if job.has_upload:
        return _view(RemoveButton(key))
    return _view(RerunButton(key), RemoveButton(key))


def finished_view(job: Job, numbers: Sequence[int]) -> View:
    """Return the buttons below the pictures with these numbers."""
    key = JobKey.of(job)
    if len(numbers) == 1:
        return _view(RerunButton(key), VaryButton(key, numbers[0]), RemoveButton(key))
    varies = (VaryButton(key, number, numbered=True, row=1) for number in numbers)
    return _view(RerunButton(key), RemoveButton(key), *varies)


def _view(*items: DynamicItem[Button[Any]]) -> View:
    view = View(timeout=None)
    for item in items:
        view.add_item(item)
    return view
