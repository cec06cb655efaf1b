"""Deletes the pictures of messages, channels and servers that were deleted in Discord."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import discord
from discord.ext import commands

from storage.errors import StorageError

from ..interactions.concurrency import NewestOnly
from ..jobs.service import ImagineService

log = logging.getLogger(__name__)


class DiscordDeletions(commands.Cog):
    """Follows deletions of messages, channels and servers in Discord.

    Discord reports every deleted message of a server by its id alone; most are not the bot's.
    Discord does not report deletions from the time without a connection. The bot finds those
    messages when somebody asks for the picture (`bot.delivery.presence`), and compares its servers
    at the next connection.
    """

    def __init__(
        self, service: ImagineService, is_channel_gone: Callable[[int], Awaitable[bool]]
    ) -> None:
        self._service = service
        self._removals = service.removals
        self._is_channel_gone = is_channel_gone
        # If many channels are deleted, one last search finds the threads of all of them.
        self._searches = NewestOnly()

    def _start(self, writing: Coroutine[Any, Any, None]) -> None:
        # In the background, since the write may have to wait until the disk has room.
        self._service.in_background(_log_errors(writing), "follow a deletion in Discord")

    @commands.Cog.listener()
    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        """Delete the job that a message showed."""
        gone = [payload.message_id]
        self._start(self._removals.messages_gone(gone, payload.channel_id))

    @commands.Cog.listener()
    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        """Delete the jobs that several messages showed."""
        gone = sorted(payload.message_ids)
        self._start(self._removals.messages_gone(gone, payload.channel_id))

    @commands.Cog.listener()
    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        """Delete the jobs of a channel and of its threads.

        discord.py reports the channel's threads separately, but no archived ones.
        """
        self._start(self._removals.channel_gone(channel.id))
        self._start(self._search_threads(channel.guild.id))

    async def _search_threads(self, guild_id: int) -> None:
        await self._searches.do(
            guild_id, lambda: self._removals.threads_gone(guild_id, self._is_channel_gone)
        )

    @commands.Cog.listener()
    async def on_raw_thread_delete(self, payload: discord.RawThreadDeleteEvent) -> None:
        """Delete the jobs of a thread."""
        self._start(self._removals.channel_gone(payload.thread_id))

    @commands.Cog.listener()
    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """Delete the jobs of a server that the bot left. An outage is another event."""
        self._start(self._removals.guild_gone(guild.id))

    @commands.Cog.listener()
    async def on_guild_join(self, guild: discord.Guild) -> None:
        """Store the server, since the bot may leave it while there is no connection."""
        self._start(self._removals.guild_joined(guild.me.id, guild.id))


async def _log_errors(writing: Coroutine[Any, Any, None]) -> None:
    try:
        await writing
    except StorageError as error:
        # The bot finds a message again when somebody asks for the picture, and a server at the next
        # connection.
        log.error("A deletion in Discord cannot be stored now. %s", error)
