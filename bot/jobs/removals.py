"""Deletions in Discord: the jobs of a deleted message, channel or left server are deleted too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from storage.errors import UNWRITABLE
from storage.jobs import JobStore
from storage.joined_guilds import JoinedGuilds
from storage.records import Job, Removal, Remover

from .disk import DiskGuard

log = logging.getLogger(__name__)

# The most jobs in one transaction, since others wait for the database meanwhile.
_BATCH: Final = 100
_BY_DISCORD: Final = Removal(Remover.DISCORD)


class Removals:
    """Deletes the jobs whose messages are gone, with their pictures.

    While the disk cannot be written, all methods retry until the bot stops, except `job_gone`: a
    person waits for it. `cancel` takes a job out of the queue. `sent_in` returns the jobs under way
    in a channel by the ids of their messages, which the store may not know yet.

    All methods raise StorageError if the store cannot be written.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        joined_guilds: JoinedGuilds,
        cancel: Callable[[int], bool],
        sent_in: Callable[[int], Awaitable[Mapping[int, int]]],
        disk: DiskGuard,
    ) -> None:
        self._jobs = jobs
        self._joined_guilds = joined_guilds
        self._cancel = cancel
        self._sent_in = sent_in
        self._disk = disk
        self._comparing = asyncio.Lock()

    async def messages_gone(self, message_ids: Sequence[int], channel_id: int) -> None:
        """Delete the jobs that were shown in these messages of a channel.

        Most messages of a server are not the bot's. They cost one query, and wait for no write.
        """
        shown = await self._jobs.ids_shown_in(message_ids)
        await self._delete(shown, "their messages are gone")
        if len(shown) < len(message_ids):
            # A message may be deleted before the store knows it.
            sent = await self._sent_in(channel_id)
            just_sent = [sent[message_id] for message_id in message_ids if message_id in sent]
            await self._delete(just_sent, "their messages are gone")

    async def channel_gone(self, channel_id: int) -> None:
        """Delete the jobs of a channel or thread."""
        await self._delete(await self._jobs.ids_in_channel(channel_id), "their channel is gone")

    async def threads_gone(self, guild_id: int, is_gone: Callable[[int], Awaitable[bool]]) -> None:
        """Delete the jobs of those threads and channels of a server that no longer exist.

        Discord does not report the archived threads of a deleted channel. `is_gone` asks Discord
        about one channel or thread.
        """
        for channel_id in await self._jobs.channels_of(guild_id):
            if await is_gone(channel_id):
                await self.channel_gone(channel_id)

    async def guild_gone(self, guild_id: int) -> None:
        """Delete the jobs of a server that the bot has left."""
        await self._delete(await self._jobs.ids_in_guild(guild_id), "the bot has left their server")
        # Last: if the bot stops before, the next `guilds_are` starts over.
        await self._retry(lambda: self._joined_guilds.remove(guild_id))

    async def guild_joined(self, account_id: int, guild_id: int) -> None:
        """Record that the bot has joined a server with that account."""
        await self._retry(lambda: self._joined_guilds.add(account_id, [guild_id]))

    async def guilds_are(
        self,
        account_id: int,
        guild_ids: Sequence[int],
        has_left: Callable[[int], Awaitable[bool]],
    ) -> None:
        """Delete the jobs of the servers that the bot left while it was not connected.

        `guild_ids` are the servers of the account now, including servers with an outage.
        `has_left` asks Discord once more about a server that is missing there.
        """
        # Under a lock: the bot may connect again while Discord is still being asked.
        async with self._comparing:
            await self._retry(lambda: self._joined_guilds.add(account_id, guild_ids))
            for guild_id in await self._joined_guilds.missing(account_id, guild_ids):
                if await has_left(guild_id):
                    await self.guild_gone(guild_id)

    async def job_gone(self, job: Job) -> None:
        """Delete a job whose message is certainly gone."""
        with self._disk.report_failures():
            await self._delete_batch([job.id])
        log.info("Deleted job %s: its message is gone", job.id)

    async def _delete(self, job_ids: Sequence[int], reason: str) -> None:
        for start in range(0, len(job_ids), _BATCH):
            batch = job_ids[start : start + _BATCH]
            await self._retry(partial(self._delete_batch, batch))
        if job_ids:
            log.info("Deleted %s jobs: %s", len(job_ids), reason)

    async def _delete_batch(self, job_ids: Sequence[int]) -> None:
        await self._jobs.delete_all(job_ids, _BY_DISCORD, without_messages=True)
        # Last: a cancelled job reads in the store whether it still has to report that.
        for job_id in job_ids:
            self._cancel(job_id)

    async def _retry(self, write: Callable[[], Awaitable[None]]) -> None:
        await self._disk.retry(write, passing=UNWRITABLE)
