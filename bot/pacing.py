"""Progress at a rate that Discord allows, with estimates that stay true while they stand there."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from generation.request import Event, Progress
from storage.records import Job

from . import replies
from .background import Background

_EDITS: Final = 20


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


_Kind = Callable[[Mapping[int, _News], Mapping[int, _Shown]], Sequence[_News]]


def _progress(latest: Mapping[int, _News], _: Mapping[int, _Shown]) -> Sequence[_News]:
    """Return how far jobs are, which is to be shown."""
    return [news for news in latest.values() if isinstance(news.event, Progress)]


def _places(latest: Mapping[int, _News], _: Mapping[int, _Shown]) -> Sequence[_News]:
    """Return places in the queue that are to be shown."""
    return [news for news in latest.values() if not isinstance(news.event, Progress)]


def _run_out(latest: Mapping[int, _News], shown: Mapping[int, _Shown]) -> Sequence[_News]:
    """Return what is to stand instead of estimates that have run out."""
    return [news for news in _stale(latest, shown) if news.now().seconds is None]


def _stale(latest: Mapping[int, _News], shown: Mapping[int, _Shown]) -> Sequence[_News]:
    """Return what is to stand instead of estimates that read otherwise by now."""
    return [old.again() for job, old in shown.items() if job not in latest and old.is_stale]


class ProgressPacer:
    """Edits at most one message a channel every `seconds`, always with the latest event.

    Discord counts edits by channel (five in five seconds); jobs in one channel take turns, and
    what was overtaken is never sent. Turns go round among progress, places in the queue and
    estimates that have run out, which are taken back, so that the places of many do not hide how
    far one is. An estimate shrinks while it waits for its turn, and when nothing new is to be said.

    Over all channels there are at most `_EDITS` a second, since Discord counts all requests of a
    bot as well (50 a second) and the pictures have to come through.

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
        self._next_edit = 0.0

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
        kinds: deque[_Kind] = deque([_progress, _places, _run_out])
        try:
            while latest or shown:
                if any(kind(latest, shown) for kind in (*kinds, _stale)):
                    await self._turn_of_channel()
                    await self._show_next(kinds, latest, shown)
                await asyncio.sleep(self._seconds)
        finally:
            del self._latest[channel_id], self._shown[channel_id]

    async def _turn_of_channel(self) -> None:
        now = asyncio.get_running_loop().time()
        self._next_edit = max(now, self._next_edit + 1 / _EDITS)
        await asyncio.sleep(self._next_edit - now)

    async def _show_next(
        self, kinds: deque[_Kind], latest: dict[int, _News], shown: Mapping[int, _Shown]
    ) -> None:
        """Show the first news of the first kind of which there is any; its turn is the last next.

        There may be none any more: a job can be over while its channel waits for its turn.
        """
        for kind in (*kinds, _stale):
            if (news := next(iter(kind(latest, shown)), None)) is not None:
                if kind in kinds:
                    kinds.remove(kind)
                    kinds.append(kind)
                latest.pop(news.job.id, None)
                await self._show(news)
                return

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
