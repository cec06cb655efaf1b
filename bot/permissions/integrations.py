"""The settings of a server's admins for the bot's commands (Server Settings, Integrations).

Discord applies these settings to commands alone. The bot also applies them to the buttons and
reactions that do the same. The rules are in "Application Command Permissions" in Discord's
documentation, https://docs.discord.com/developers/interactions/application-commands#permissions:
settings of a command come before settings of the application, and settings of a member before
settings of roles. If roles disagree, the role that allows wins.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import discord
from discord import AppCommandPermissionType as Kind
from discord import app_commands
from discord.http import HTTPClient

from ..delivery.codes import FAULTS, parsed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overrides:
    """The settings for one command, or for the whole application, in one server."""

    entries: Mapping[tuple[Kind, int], bool]

    @classmethod
    def parse(cls, entries: Sequence[Mapping[str, Any]]) -> Overrides:
        """Return the settings in the `permissions` that Discord sent."""
        return cls(
            {(Kind(entry["type"]), int(entry["id"])): entry["permission"] for entry in entries}
        )

    def for_channel(self, channel_id: int, guild_id: int) -> bool | None:
        """Return the setting for a channel, else for all channels; None if there is neither."""
        # Discord's constant for all channels.
        everywhere = self.entries.get((Kind.channel, guild_id - 1))
        return self.entries.get((Kind.channel, channel_id), everywhere)

    def for_member(self, member: discord.Member) -> bool | None:
        """Return the setting for a member, else for their roles, else for everyone, or None."""
        own = self.entries.get((Kind.user, member.id))
        if own is not None:
            return own
        everyone = member.guild.id
        by_role = [
            self.entries[Kind.role, role.id]
            for role in member.roles
            if role.id != everyone and (Kind.role, role.id) in self.entries
        ]
        return any(by_role) if by_role else self.entries.get((Kind.role, everyone))


_NONE: Final = Overrides({})


def allow(levels: Sequence[Overrides], member: discord.Member, channel_id: int) -> bool:
    """Return whether `member` may use a command in a channel.

    `levels` are the settings of the command, then of the application. For a thread, `channel_id` is
    the id of its parent.
    """
    in_channel = _first(level.for_channel(channel_id, member.guild.id) for level in levels)
    return in_channel and _first(level.for_member(member) for level in levels)


def _first(settings: Iterator[bool | None]) -> bool:
    """Return the first setting that is not None; without any, the command is allowed."""
    return next((setting for setting in settings if setting is not None), True)


class Integrations:
    """The settings of all servers, requested from Discord when first needed and then cached."""

    def __init__(self, http: HTTPClient, application_id: int) -> None:
        self._http = http
        self._application_id = application_id
        self._ids: dict[str, int] = {}
        self._known: dict[tuple[int, int], Overrides] = {}
        self._changes = 0

    def set_commands(self, commands: Sequence[app_commands.AppCommand]) -> None:
        """Store the ids that the published commands have in Discord."""
        self._ids = {command.name: command.id for command in commands}

    async def allow(
        self, command: str, person: discord.User | discord.Member, channel: discord.abc.Snowflake
    ) -> bool:
        """Return whether the settings allow `person` to use `command` in a channel.

        If Discord does not answer, the command is allowed: an outage must not disable the buttons.
        """
        if not isinstance(person, discord.Member) or person.guild_permissions.administrator:
            return True
        try:
            levels = [
                await self._overrides(person.guild.id, of)
                for of in (self._ids.get(command), self._application_id)
                # A command that is not published yet has no settings.
                if of is not None
            ]
        except FAULTS as error:
            log.warning("The settings of /%s in %s are unknown: %s", command, person.guild, error)
            return True
        parent_id = channel.parent_id if isinstance(channel, discord.Thread) else channel.id
        return allow(levels, person, parent_id)

    def forget(self, guild_id: int | None = None) -> None:
        """Drop the cached settings of a server, or of all servers."""
        self._changes += 1
        self._known = {
            key: known for key, known in self._known.items() if guild_id not in (None, key[0])
        }

    async def _overrides(self, guild_id: int, of: int) -> Overrides:
        """Return the settings in a server; `of` is a command's id, or the application's."""
        known, changes = self._known.get((guild_id, of)), self._changes
        if known is not None:
            return known
        try:
            overrides = await parsed(self._fetch(guild_id, of))
        except discord.NotFound:
            overrides = _NONE
        # `forget` may have been called meanwhile; then the answer may be outdated.
        if changes == self._changes:
            self._known[guild_id, of] = overrides
        return overrides

    async def _fetch(self, guild_id: int, of: int) -> Overrides:
        # discord.py has a method for the settings of a command, and none for the application's.
        found = await self._http.get_application_command_permissions(
            self._application_id, guild_id, of
        )
        return Overrides.parse(found["permissions"])
