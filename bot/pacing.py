"""Progress at a rate that Discord allows, with estimates that stay true while they stand there."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from generation.request import Event, Progress
from storage.records import Job

from . import replies
from .background import Background


@dataclass(frozen=True, slots=True)
class _News:
    """What there is to say of a job; `since` is the event loop's time when it was so."""

    job: Job
    message_id: int
    event: Event
    since: float

    def after(self, overtaken: _News | None) -> _News:
        """Return this with the preview of what it overtakes, if it brings none of its own."""
        if overtaken is None or not isinstance(self.event, Progress) or self.event.preview:
            return self
        preview = getattr(overtaken.event, "preview", None)
        return dataclasses.replace(self, event=dataclasses.replace(self.event, preview=preview))

    def now(self) -> Event:
        """Return the event as it reads now."""
        return replies.aged(self.event, asyncio.get_running_loop().time() - self.since)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What was last shown of a job, and as which event."""

    news: _News
    event: Event

    @property
    def is_stale(self) -> bool:
        """Return whether the estimate reads otherwise by now, or has run out."""
        job = self.news.job
        return replies.waiting(job, self.news.now()) != replies.waiting(job, self.event)

    def again(self) -> _News:
        """Return what to show instead; the preview stands there already."""
        event = self.news.event
        if isinstance(event, Progress):
            event = dataclasses.replace(event, preview=None)
        return dataclasses.replace(self.news, event=event)


class ProgressPacer:
    """Edits at most one message a channel every `seconds`, always with the latest event.

    Discord counts edits by channel (five in five seconds); jobs that wait in one channel
    take turns, and what was overtaken is never sent. An estimate shrinks while it waits for
    its turn, and when nothing new comes after it; once it has run out it is taken back.

    `edit` shows an event in a message and returns whether that went well.
    """

    def __init__(
        self, edit: Callable[[Job, int, Event], Coroutine[Any, Any, bool]], seconds: float
    ) -> None:
        self._edit = edit
        self._seconds = seconds
        self._latest: dict[int, dict[int, _News]] = {}
        self._shown: dict[int, dict[int, _Shown]] = {}
        self._background = Background()
        self._editing: dict[int, asyncio.Task[None]] = {}

    def show(self, job: Job, message_id: int, event: Event) -> None:
        """Have `event` shown when the channel's turn comes."""
        if job.channel_id not in self._latest:
            self._latest[job.channel_id] = {}
            self._shown[job.channel_id] = {}
            self._background.start(
                self._pace(job.channel_id), f"show progress in channel {job.channel_id}"
            )
        latest = self._latest[job.channel_id]
        news = _News(job, message_id, event, asyncio.get_running_loop().time())
        latest[job.id] = news.after(latest.get(job.id))

    async def drop(self, job: Job) -> None:
        """Show nothing more of `job`: its message is about to say something final.

        An edit that is under way is waited for, or it could arrive after the final one.
        """
        self._latest.get(job.channel_id, {}).pop(job.id, None)
        if (editing := self._editing.get(job.id)) is not None:
            await asyncio.wait({editing})
        self._shown.get(job.channel_id, {}).pop(job.id, None)

    async def close(self) -> None:
        """Stop all pacing."""
        await self._background.close()

    async def _pace(self, channel_id: int) -> None:
        latest, shown = self._latest[channel_id], self._shown[channel_id]
        try:
            while latest or shown:
                if latest:
                    await self._show(latest.pop(next(iter(latest))))
                elif (stale := next((s for s in shown.values() if s.is_stale), None)) is not None:
                    await self._show(stale.again())
                await asyncio.sleep(self._seconds)
        finally:
            del self._latest[channel_id], self._shown[channel_id]

    async def _show(self, news: _News) -> None:
        editing = asyncio.create_task(self._edit_and_note(news))
        self._editing[news.job.id] = editing
        await asyncio.wait({editing})
        del self._editing[news.job.id]

    async def _edit_and_note(self, news: _News) -> None:
        # Noted in the task that `drop` waits for, or it could be noted after that.
        job, event = news.job, news.now()
        shown = self._shown[job.channel_id]
        shown.pop(job.id, None)
        if await self._edit(job, news.message_id, event) and event.seconds is not None:
            shown[job.id] = _Shown(news, event)
