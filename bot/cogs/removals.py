"""Messages, channels and servers that are gone: what was shown there is deleted here as well."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import discord
from discord.ext import commands

from storage.errors import StorageError

from ..presence import is_channel_gone
from ..service import ImagineService

if TYPE_CHECKING:
    from ..client import ImagineBot

log = logging.getLogger(__name__)


class TakenAway(commands.Cog):
    """Follows what is deleted by Discord's own means.

    Discord tells of every message that is deleted where the bot is, by its number alone; most are
    not the bot's. It does not tell of what happened while there was no connection: that is found
    when the picture is asked for (`bot.presence`), and servers are compared at the next connection.
    """

    def __init__(self, bot: ImagineBot, service: ImagineService) -> None:
        self._service = service
        self._removals = service.removals
        self._is_gone = partial(is_channel_gone, bot, bot.courier.retry)

    def _start(self, writing: Coroutine[Any, Any, None]) -> None:
        # Not in the event itself: it may have to wait until the disk has room.
        self._service.in_background(_noting(writing), "follow a deletion in Discord")

    @commands.Cog.listener()
    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        """Delete what a message showed."""
        gone = [payload.message_id]
        self._start(self._removals.messages_gone(gone, payload.channel_id))

    @commands.Cog.listener()
    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        """Delete what several messages showed."""
        gone = sorted(payload.message_ids)
        self._start(self._removals.messages_gone(gone, payload.channel_id))

    @commands.Cog.listener()
    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        """Delete what was shown in a channel.

        Each of its threads has an event of its own, but not a thread that was archived.
        """
        self._start(self._removals.channel_gone(channel.id))
        self._start(self._removals.threads_gone(channel.guild.id, self._is_gone))

    @commands.Cog.listener()
    async def on_raw_thread_delete(self, payload: discord.RawThreadDeleteEvent) -> None:
        """Delete what was shown in a thread."""
        self._start(self._removals.channel_gone(payload.thread_id))

    @commands.Cog.listener()
    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """Delete what was shown in a server that the bot left; an outage comes by another event."""
        self._start(self._removals.guild_gone(guild.id))

    @commands.Cog.listener()
    async def on_guild_join(self, guild: discord.Guild) -> None:
        """Remember the server, which the bot may leave while it has no connection."""
        self._start(self._removals.guild_joined(guild.me.id, guild.id))


async def _noting(writing: Coroutine[Any, Any, None]) -> None:
    try:
        await writing
    except StorageError as error:
        # It is found again when the picture is asked for, and a server at the next connection.
        log.error("What happened in Discord cannot be recorded here now. %s", error)


async def setup(bot: ImagineBot) -> None:
    """Add the cog; called by `load_extension`."""
    await bot.add_cog(TakenAway(bot, bot.service))
