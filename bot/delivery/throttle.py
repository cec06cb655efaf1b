"""Progress edits at a rate that Discord allows, with estimates that stay true."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, Final

from generation.values.events import Event
from storage.records import Job

from ..jobs.tasks import Background
from .updates import ChannelUpdates, Shown, Update

_EDITS_PER_SECOND: Final = 20
# For an urgent update, since no later event may come.
_MAX_ATTEMPTS: Final = 3


class ProgressThrottle:
    """Edits at most one message of a channel every `seconds`, always with the latest event.

    Discord limits edits by channel (five in five seconds), so the jobs of a channel take turns. An
    event that a later one replaced is never sent, nor an event that changes no words. The news
    that a job makes no progress comes first: the model is loaded, or the engine does not respond.
    The other turns alternate between progress, positions in the queue, and expired estimates. So
    the positions of many jobs do not hide the progress of one. An estimate counts down while it
    waits for its turn, and while there is no news.

    All channels together get `_EDITS_PER_SECOND`: Discord also limits all requests of a bot (50 a
    second), and the pictures have to arrive.

    `edit` shows an event in a message and returns whether Discord took it.
    """

    def __init__(
        self, edit: Callable[[Job, int, Event], Coroutine[Any, Any, bool]], seconds: float
    ) -> None:
        self._edit = edit
        self._seconds = seconds
        self._channels: dict[int, ChannelUpdates] = {}
        self._background = Background()
        self._editing: dict[int, asyncio.Task[None]] = {}
        self._next_edit = 0.0

    def show(self, job: Job, message_id: int, event: Event) -> None:
        """Show `event` when the channel's turn comes."""
        if job.channel_id not in self._channels:
            self._channels[job.channel_id] = ChannelUpdates()
            self._background.start(
                self._edit_channel(job.channel_id), f"show progress in channel {job.channel_id}"
            )
        latest = self._channels[job.channel_id].latest
        update = Update(job, message_id, event, asyncio.get_running_loop().time())
        latest[job.id] = update.replacing(latest.get(job.id))

    async def drop(self, job: Job) -> None:
        """Show no more of `job`, whose message will say how the job ended.

        An edit under way is awaited: it could otherwise arrive after the final text.
        """
        channel = self._channels.get(job.channel_id, ChannelUpdates())
        channel.latest.pop(job.id, None)
        if (editing := self._editing.get(job.id)) is not None:
            await asyncio.wait({editing})
            # An edit that failed may have put the update back.
            channel.latest.pop(job.id, None)
        channel.shown.pop(job.id, None)

    async def close(self) -> None:
        """Stop all edits."""
        await self._background.close()

    async def _edit_channel(self, channel_id: int) -> None:
        channel = self._channels[channel_id]
        try:
            while channel.is_busy:
                if channel.has_changes():
                    await self._wait_for_turn()
                    # The update may be gone: a job can end while its channel waits.
                    if (update := channel.next()) is not None:
                        await self._show(update)
                await asyncio.sleep(self._seconds)
        finally:
            del self._channels[channel_id]

    async def _wait_for_turn(self) -> None:
        """Wait until the limit of all channels together allows the next edit."""
        now = asyncio.get_running_loop().time()
        self._next_edit = max(now, self._next_edit + 1 / _EDITS_PER_SECOND)
        await asyncio.sleep(self._next_edit - now)

    async def _show(self, update: Update) -> None:
        editing = asyncio.create_task(self._edit_and_record(update))
        self._editing[update.job.id] = editing
        await asyncio.wait({editing})
        del self._editing[update.job.id]

    async def _edit_and_record(self, update: Update) -> None:
        # Recorded in the task that `drop` awaits, so never after `drop`.
        job, event = update.job, update.event_now()
        channel = self._channels[job.channel_id]
        channel.shown.pop(job.id, None)
        if await self._edit(job, update.message_id, event):
            channel.shown[job.id] = Shown(update, event)
        elif update.is_urgent and update.failures + 1 < _MAX_ATTEMPTS:
            failed = dataclasses.replace(update, failures=update.failures + 1)
            channel.latest.setdefault(job.id, failed)
