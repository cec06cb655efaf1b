"""What a server's admins set for our commands under Server Settings, Integrations.

Discord looks at it for commands alone; here it counts for the buttons and reactions too that do
the same. The rules are those of "Application Command Permissions" in Discord's documentation,
https://docs.discord.com/developers/interactions/application-commands#permissions: a command's
own settings come before those for the whole application, a member's before those of roles, and
of several roles one that allows wins.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import discord
from discord import AppCommandPermissionType as Kind
from discord import app_commands

from .delivery_codes import FAULTS, understood

if TYPE_CHECKING:
    from .client import ImagineBot

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
        """Return what is set for a channel, else for all channels; None if nothing is."""
        # Discord's constant for all channels.
        everywhere = self.entries.get((Kind.channel, guild_id - 1))
        return self.entries.get((Kind.channel, channel_id), everywhere)

    def for_member(self, member: discord.Member) -> bool | None:
        """Return what is set for a member, else their roles, else everyone; None if nothing is."""
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
    """Return whether `member` may use a command in a channel; `levels` has the command's first.

    For a thread that is its parent's id.
    """
    in_channel = _first(level.for_channel(channel_id, member.guild.id) for level in levels)
    return in_channel and _first(level.for_member(member) for level in levels)


def _first(settings: Iterator[bool | None]) -> bool:
    """Return the first setting that is one; what nothing is set for is allowed."""
    return next((setting for setting in settings if setting is not None), True)


class Integrations:
    """Those settings of all servers, asked of Discord when first needed, and then remembered."""

    def __init__(self, bot: ImagineBot, commands: Sequence[app_commands.AppCommand]) -> None:
        self._bot = bot
        if bot.application_id is None:
            raise app_commands.MissingApplicationID
        self._application_id = bot.application_id
        self._ids: dict[str, int] = {}
        self.learn(commands)
        self._known: dict[tuple[int, int], Overrides] = {}
        self._changes = 0

    def learn(self, commands: Sequence[app_commands.AppCommand]) -> None:
        """Take the ids of our commands as Discord has them now."""
        self._ids = {command.name: command.id for command in commands}

    async def allow(
        self, command: str, person: discord.User | discord.Member, channel: discord.abc.Snowflake
    ) -> bool:
        """Return whether `person` may use `command` in a channel, as far as these settings go.

        Where Discord cannot be asked they do not count, so that its troubles take nobody's buttons.
        """
        if not isinstance(person, discord.Member) or person.guild_permissions.administrator:
            return True
        try:
            levels = [
                await self._overrides(person.guild.id, of)
                for of in (self._ids.get(command), self._application_id)
                # A command that could not be published yet has no settings of its own.
                if of is not None
            ]
        except FAULTS as error:
            log.warning("Who may use /%s in %s is not known: %s", command, person.guild, error)
            return True
        parent_id = channel.parent_id if isinstance(channel, discord.Thread) else channel.id
        return allow(levels, person, parent_id)

    def forget(self, guild_id: int | None = None) -> None:
        """Ask Discord again about a server, or about all."""
        self._changes += 1
        self._known = {
            key: known for key, known in self._known.items() if guild_id not in (None, key[0])
        }

    async def _overrides(self, guild_id: int, of: int) -> Overrides:
        """Return the settings for a command in a server; `of` is its id, or for all our own."""
        known, changes = self._known.get((guild_id, of)), self._changes
        if known is not None:
            return known
        try:
            overrides = await understood(self._asked(guild_id, of))
        except discord.NotFound:
            overrides = _NONE
        if changes == self._changes:
            self._known[guild_id, of] = overrides
        return overrides

    async def _asked(self, guild_id: int, of: int) -> Overrides:
        # discord.py has a method for a command, and none for the whole application.
        found = await self._bot.http.get_application_command_permissions(
            self._application_id, guild_id, of
        )
        return Overrides.parse(found["permissions"])
