"""What was taken away by Discord's own means counts as deleted: message, channel or server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from storage.errors import UNWRITABLE
from storage.jobs import JobStore
from storage.records import Job, Removal, Remover

from .concurrency import NewestOnly
from .room import Room

log = logging.getLogger(__name__)

# So many jobs are deleted in one transaction: others wait for the database meanwhile.
_AT_ONCE: Final = 100
_BY_DISCORD: Final = Removal(Remover.DISCORD)


class Removals:
    """Deletes the jobs whose messages are gone, with their pictures; no message is left to delete.

    What cannot be written for now, such as on a full disk, is tried again until it can or the bot
    stops, except where a person waits: in `job_gone`.

    `cancel` takes a job out of the queue, and `sent_in` returns the jobs under way in a channel by
    the ids of their messages, which the store need not know yet. All methods raise StorageError
    where it cannot be written.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        cancel: Callable[[int], bool],
        sent_in: Callable[[int], Awaitable[Mapping[int, int]]],
        room: Room,
    ) -> None:
        self._jobs = jobs
        self._cancel = cancel
        self._sent_in = sent_in
        self._room = room
        self._looking = asyncio.Lock()
        # Where many channels are deleted, the last look finds what the others would.
        self._threads = NewestOnly()

    async def messages_gone(self, message_ids: Sequence[int], channel_id: int) -> None:
        """Delete the jobs that were shown in these messages of a channel, which may be anybody's.

        Most are: in a large server they cost one look into the store, and no wait for its writes.
        """
        shown = await self._jobs.ids_shown_in(message_ids)
        await self._delete(shown, "their messages are gone")
        if len(shown) < len(message_ids):
            # A message may be deleted before it is known here that it was sent.
            sent = await self._sent_in(channel_id)
            just_sent = [sent[message_id] for message_id in message_ids if message_id in sent]
            await self._delete(just_sent, "their messages are gone")

    async def channel_gone(self, channel_id: int) -> None:
        """Delete the jobs of a channel or thread."""
        await self._delete(await self._jobs.ids_in_channel(channel_id), "their channel is gone")

    async def threads_gone(self, guild_id: int, is_gone: Callable[[int], Awaitable[bool]]) -> None:
        """Delete the jobs of a server's threads that went with their channel.

        Discord sends no event for a thread that was archived. `is_gone` asks about one channel.
        """
        await self._threads.do(guild_id, lambda: self._threads_gone(guild_id, is_gone))

    async def _threads_gone(self, guild_id: int, is_gone: Callable[[int], Awaitable[bool]]) -> None:
        for channel_id in await self._jobs.channels_of(guild_id):
            if await is_gone(channel_id):
                await self.channel_gone(channel_id)

    async def guild_gone(self, guild_id: int) -> None:
        """Delete the jobs of a server that the bot has left."""
        await self._delete(await self._jobs.ids_in_guild(guild_id), "the bot has left their server")
        # Only now: if the bot stops before, the next `guilds_are` begins again.
        await self._insist(lambda: self._jobs.left_guild(guild_id))

    async def guild_joined(self, account_id: int, guild_id: int) -> None:
        """Remember a server that the bot, by that account, has come into."""
        await self._insist(lambda: self._jobs.joined_guilds(account_id, [guild_id]))

    async def guilds_are(
        self,
        account_id: int,
        guild_ids: Sequence[int],
        has_left: Callable[[int], Awaitable[bool]],
    ) -> None:
        """Delete the jobs of the servers that the bot has left while it had no connection.

        `guild_ids` are those where the account is now, those with an outage included. `has_left`
        asks Discord once more about one that was among them and is not.
        """
        # One after the other: a second connection may come while Discord is still asked.
        async with self._looking:
            await self._insist(lambda: self._jobs.joined_guilds(account_id, guild_ids))
            for guild_id in await self._jobs.missing_guilds(account_id, guild_ids):
                if await has_left(guild_id):
                    await self.guild_gone(guild_id)

    async def job_gone(self, job: Job) -> None:
        """Delete a job whose message is known to be gone."""
        with self._room.noticing():
            await self._delete_portion([job.id])
        log.info("Deleted job %s: its message is gone", job.id)

    async def _delete(self, job_ids: Sequence[int], reason: str) -> None:
        for start in range(0, len(job_ids), _AT_ONCE):
            portion = job_ids[start : start + _AT_ONCE]
            await self._insist(partial(self._delete_portion, portion))
        if job_ids:
            log.info("Deleted %s jobs: %s", len(job_ids), reason)

    async def _delete_portion(self, job_ids: Sequence[int]) -> None:
        await self._jobs.delete_all(job_ids, _BY_DISCORD, without_messages=True)
        # Only then: a job that is cancelled looks into the store for what to say.
        for job_id in job_ids:
            self._cancel(job_id)

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        await self._room.insist(write, passing=UNWRITABLE)
