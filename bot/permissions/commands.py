"""Who may use a slash command, and so the button and the reaction that do the same."""

from __future__ import annotations

from typing import Any

import discord

from storage.records import Job

from ..errors import NotAllowed
from ..ui.actions import Action
from .integrations import Integrations
from .members import Members


class CommandAccess:
    """Applies Discord's rule for slash commands to buttons and reactions.

    Discord checks the permission Use Application Commands and the settings under Server Settings,
    Integrations for slash commands alone.
    """

    def __init__(self, members: Members, integrations: Integrations) -> None:
        self._members = members
        self._integrations = integrations

    async def check_click(
        self, interaction: discord.Interaction[Any], action: Action, job: Job
    ) -> None:
        """Return only if the person who clicked a button of `job` may use its command here.

        Raises:
            NotAllowed: the person may not.
        """
        if interaction.guild_id is None:
            return
        channel = interaction.channel or discord.Object(interaction.channel_id or 0)
        command = action.command_for(job)
        await self._check(command, interaction.user, channel, interaction.permissions)

    async def may_react(
        self, job: Job, person: discord.User | discord.Member, action: Action
    ) -> bool:
        """Return whether `person` may do `action` to `job`, by the rights in the job's channel."""
        if job.guild_id is None:
            return job.user_id == person.id
        channel = self._members.channel_of(job)
        if channel is None:
            return False
        allowed = self._members.permissions(job, person, job.channel_id)
        try:
            await self._check(action.command_for(job), person, channel, allowed)
        except NotAllowed:
            return False
        return True

    async def _check(
        self,
        command: str | None,
        person: discord.User | discord.Member,
        channel: discord.abc.Snowflake,
        allowed: discord.Permissions,
    ) -> None:
        if command is None:
            return
        if not allowed.use_application_commands:
            raise NotAllowed(
                "You may not use commands in this channel, so you cannot make pictures here; ask a "
                "moderator for the permission Use Application Commands."
            )
        if not await self._integrations.allow(command, person, channel):
            raise NotAllowed(
                f"You may not use /{command} in this channel, so you cannot use this "
                "button; ask an admin to allow it under Server Settings, Integrations."
            )
