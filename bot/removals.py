"""What was taken away by Discord's own means counts as deleted: message, channel or server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from storage.jobs import JobStore
from storage.records import Job, Removal, Remover

from .room import Room

log = logging.getLogger(__name__)

# So many jobs are deleted in one transaction: others wait for the database meanwhile.
_AT_ONCE: Final = 100
_BY_DISCORD: Final = Removal(Remover.DISCORD)


class Removals:
    """Deletes the jobs whose messages are gone, with their pictures; no message is left to delete.

    `cancel` takes a job out of the queue, and `shown_in` finds the one that a message shows, also
    when that was sent just now. All methods raise StorageError where it cannot be written.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        cancel: Callable[[int], bool],
        shown_in: Callable[[int], Awaitable[Job | None]],
        room: Room,
    ) -> None:
        self._jobs = jobs
        self._cancel = cancel
        self._shown_in = shown_in
        self._room = room

    async def message_gone(self, message_id: int) -> None:
        """Delete the job that was shown in a message, which may be anybody's."""
        job = await self._shown_in(message_id)
        if job is not None and not job.deleted:
            await self.job_gone(job)

    async def messages_gone(self, message_ids: Sequence[int]) -> None:
        """Delete the jobs that were shown in any of these messages."""
        await self._delete(await self._jobs.ids_shown_in(message_ids), "their messages are gone")

    async def channel_gone(self, channel_id: int) -> None:
        """Delete the jobs of a channel or thread."""
        await self._delete(await self._jobs.ids_in_channel(channel_id), "their channel is gone")

    async def guild_gone(self, guild_id: int) -> None:
        """Delete the jobs of a server that the bot has left."""
        await self._delete(await self._jobs.ids_in_guild(guild_id), "the bot has left their server")

    async def job_gone(self, job: Job) -> None:
        """Delete a job whose message is known to be gone."""
        await self._delete([job.id], "its message is gone")

    async def _delete(self, job_ids: Sequence[int], reason: str) -> None:
        for start in range(0, len(job_ids), _AT_ONCE):
            portion = job_ids[start : start + _AT_ONCE]
            with self._room.noticing():
                await self._jobs.delete_all(portion, _BY_DISCORD, without_messages=True)
            # Only then: a job that is cancelled looks into the store for what to say.
            for job_id in portion:
                self._cancel(job_id)
        if job_ids:
            log.info("Deleted %s jobs: %s", len(job_ids), reason)
