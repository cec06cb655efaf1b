"""What a click on a button does; `bot.ui.actions` has the table, `bot.ui.views` the buttons."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self

import discord
from discord.ui import Button, DynamicItem

from storage.records import Job, NewJob

from ..interactions.answers import answering
from ..interactions.interaction_check import RateLimited
from ..interactions.requester import requester_of
from ..interactions.services import services_of
from ..permissions.members import removal_by
from ..requests.reference import ImageReference
from ..ui import views
from ..ui.actions import CUSTOM_ID_PATTERN, DELETE, REMOVE, RERUN, VARY, Action, CustomId

Interaction = discord.Interaction[Any]


class ActionButton(RateLimited, DynamicItem[Button[Any]], template=CUSTOM_ID_PATTERN):
    """A button below a job's message, found by its custom id, also after a restart."""

    def __init__(self, clicked: CustomId) -> None:
        super().__init__(views.button(clicked))
        self.clicked = clicked

    @classmethod
    async def from_custom_id(
        cls, _interaction: Interaction, _item: Any, match: re.Match[str], /
    ) -> Self:
        """Return the button that was clicked."""
        return cls(CustomId.read(match))

    async def callback(self, interaction: Interaction) -> None:
        """Do what the button stands for."""
        async with answering(interaction):
            await HANDLERS[self.clicked.action](interaction, self.clicked)


async def _make(interaction: Interaction, clicked: CustomId) -> None:
    """Queue the job that the action makes."""
    await services_of(interaction).intake.accept(interaction, _new_job(interaction, clicked))


async def _new_job(interaction: Interaction, clicked: CustomId) -> NewJob:
    services = services_of(interaction)
    job = await services.lookup.check_button(interaction, clicked.job_id, clicked.token)
    await services.commands.check_click(interaction, clicked.action, job)
    picture = ImageReference(clicked.job_id, clicked.number)
    return await services.actions.new_job(clicked.action, requester_of(interaction), picture)


async def _remove(interaction: Interaction, clicked: CustomId) -> None:
    """Cancel an unfinished job; ask before the pictures of a finished one are deleted."""
    services = services_of(interaction)
    job = await _find_removable(interaction, clicked)
    if count := await services.lookup.pictures_of(job):
        question = f"Delete {count} picture{'' if count == 1 else 's'}?"
        view = views.delete_view(job)
        await interaction.followup.send(question, view=view, ephemeral=True)
    else:
        await services.jobs.cancel_or_remove(job, removal_by(job, interaction.user))


async def _delete(interaction: Interaction, clicked: CustomId) -> None:
    """Delete the pictures. Only the person who clicked ❌ sees this button."""
    job = await _find_removable(interaction, clicked)
    await services_of(interaction).jobs.cancel_or_remove(job, removal_by(job, interaction.user))
    await interaction.edit_original_response(content="Deleted.", view=None)


async def _find_removable(interaction: Interaction, clicked: CustomId) -> Job:
    lookup = services_of(interaction).lookup
    await interaction.response.defer()
    await lookup.check_button(interaction, clicked.job_id, clicked.token)
    return await lookup.find_removable(clicked.job_id, requester_of(interaction))


HANDLERS: Final[Mapping[Action, Callable[[Interaction, CustomId], Awaitable[None]]]] = {
    RERUN: _make,
    VARY: _make,
    REMOVE: _remove,
    DELETE: _delete,
}
DYNAMIC_ITEMS: Final = (ActionButton,)
