"""Progress at a rate that Discord allows, with estimates that stay true while they stand there."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from generation.values.events import Event, Loading, Progress, Waiting
from storage.records import Job

from ..jobs.tasks import Background
from ..ui import messages, states

_EDITS: Final = 20
# So often it is tried to show that nothing goes on: unlike progress, nothing may come after it.
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class _News:
    """What there is to say of a job; `since` is the event loop's time when it was so."""

    job: Job
    message_id: int
    event: Event
    since: float
    tries: int = 0

    @property
    def is_urgent(self) -> bool:
        """Return whether what was told before is wrong: nothing goes on."""
        event = self.event
        return isinstance(event, Loading) or (isinstance(event, Progress) and event.late)

    @property
    def position(self) -> int:
        """Return the place in the queue, 0 for a job that does not wait there."""
        return self.event.position if isinstance(self.event, Waiting) else 0

    def after(self, overtaken: _News | None) -> _News:
        """Return this with the preview of what it overtakes, if it brings none of its own."""
        if overtaken is None or not isinstance(self.event, Progress) or self.event.preview:
            return self
        preview = getattr(overtaken.event, "preview", None)
        return dataclasses.replace(self, event=dataclasses.replace(self.event, preview=preview))

    def now(self) -> Event:
        """Return the event as it reads now."""
        return states.aged(self.event, asyncio.get_running_loop().time() - self.since)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What was last shown of a job, and as which event."""

    news: _News
    event: Event

    @property
    def is_stale(self) -> bool:
        """Return whether the estimate reads otherwise by now, or has run out."""
        job = self.news.job
        return messages.waiting(job, self.news.now()) != messages.waiting(job, self.event)

    def again(self) -> _News:
        """Return what to show instead; the preview stands there already."""
        event = self.news.event
        if isinstance(event, Progress):
            event = dataclasses.replace(event, preview=None)
        return dataclasses.replace(self.news, event=event)


@dataclass(slots=True)
class _Channel:
    """What is to be said in the messages of a channel, and what stands there, by the jobs' ids."""

    latest: dict[int, _News] = field(default_factory=dict)
    shown: dict[int, _Shown] = field(default_factory=dict)
    kinds: deque[_Kind] = field(default_factory=lambda: deque([_progress, _places, _run_out]))

    @property
    def is_busy(self) -> bool:
        """Return whether anything is to be said, now or when an estimate has run out."""
        return bool(self.latest) or any(
            old.event.seconds is not None for old in self.shown.values()
        )

    def has_news(self) -> bool:
        """Return whether any message is to read otherwise; what would not is settled."""
        for job, news in list(self.latest.items()):
            self._settle(job, news)
        return bool(self.latest) or bool(_stale(self))

    def _settle(self, job: int, news: _News) -> None:
        """Take note of news that read as what stands there already."""
        old, event = self.shown.get(job), news.now()
        brings_preview = isinstance(event, Progress) and event.preview is not None
        if old is None or brings_preview:
            return
        if messages.waiting(news.job, event) == messages.waiting(old.news.job, old.event):
            del self.latest[job]
            self.shown[job] = _Shown(news, event)

    def next(self) -> _News | None:
        """Return what is to be shown first, if there is anything.

        That nothing goes on comes before all else. The others take turns by their kind.
        """
        for kind in (_urgent, *self.kinds, _stale):
            if (news := next(iter(kind(self)), None)) is not None:
                if kind in self.kinds:
                    self.kinds.remove(kind)
                    self.kinds.append(kind)
                self.latest.pop(news.job.id, None)
                return news
        return None


_Kind = Callable[[_Channel], Sequence[_News]]


def _urgent(channel: _Channel) -> Sequence[_News]:
    """Return that nothing goes on, first where progress stands."""
    urgent = [news for news in channel.latest.values() if news.is_urgent]
    return sorted(urgent, key=lambda news: (news.tries, not _shows_progress(channel, news)))


def _shows_progress(channel: _Channel, news: _News) -> bool:
    old = channel.shown.get(news.job.id)
    return old is not None and isinstance(old.event, Progress)


def _progress(channel: _Channel) -> Sequence[_News]:
    """Return how far jobs are, which is to be shown."""
    return [news for news in channel.latest.values() if isinstance(news.event, Progress)]


def _places(channel: _Channel) -> Sequence[_News]:
    """Return places in the queue that are to be shown, those in front first.

    In any other order one who is farther back could read that fewer are ahead.
    """
    places = [news for news in channel.latest.values() if isinstance(news.event, Waiting)]
    return sorted(places, key=lambda news: news.position)


def _run_out(channel: _Channel) -> Sequence[_News]:
    """Return what is to stand instead of estimates that have run out."""
    return [news for news in _stale(channel) if news.now().seconds is None]


def _stale(channel: _Channel) -> Sequence[_News]:
    """Return what is to stand instead of estimates that read otherwise by now."""
    stale = [
        old.again()
        for job, old in channel.shown.items()
        if job not in channel.latest and old.is_stale
    ]
    return sorted(stale, key=lambda news: news.position)


class ProgressPacer:
    """Edits at most one message a channel every `seconds`, always with the latest event.

    Discord counts edits by channel (five in five seconds); jobs in one channel take turns, and
    what was overtaken is never sent, nor what would read as before. That nothing goes on, since a
    model is loaded or the engine gives no sign, is shown first. Turns go round among progress,
    places in the queue and estimates that have run out, which are taken back, so that the places
    of many do not hide how far one is. An estimate shrinks while it waits for its turn, and when
    nothing new is to be said.

    Over all channels there are at most `_EDITS` a second, since Discord counts all requests of a
    bot as well (50 a second) and the pictures have to come through.

    `edit` shows an event in a message and returns whether that went well.
    """

    def __init__(
        self, edit: Callable[[Job, int, Event], Coroutine[Any, Any, bool]], seconds: float
    ) -> None:
        self._edit = edit
        self._seconds = seconds
        self._channels: dict[int, _Channel] = {}
        self._background = Background()
        self._editing: dict[int, asyncio.Task[None]] = {}
        self._next_edit = 0.0

    def show(self, job: Job, message_id: int, event: Event) -> None:
        """Have `event` shown when the channel's turn comes."""
        if job.channel_id not in self._channels:
            self._channels[job.channel_id] = _Channel()
            self._background.start(
                self._pace(job.channel_id), f"show progress in channel {job.channel_id}"
            )
        latest = self._channels[job.channel_id].latest
        news = _News(job, message_id, event, asyncio.get_running_loop().time())
        latest[job.id] = news.after(latest.get(job.id))

    async def drop(self, job: Job) -> None:
        """Show nothing more of `job`: its message is about to say something final.

        An edit that is under way is waited for, or it could arrive after the final one.
        """
        channel = self._channels.get(job.channel_id, _Channel())
        channel.latest.pop(job.id, None)
        if (editing := self._editing.get(job.id)) is not None:
            await asyncio.wait({editing})
            # It may have failed and have been put back.
            channel.latest.pop(job.id, None)
        channel.shown.pop(job.id, None)

    async def close(self) -> None:
        """Stop all pacing."""
        await self._background.close()

    async def _pace(self, channel_id: int) -> None:
        channel = self._channels[channel_id]
        try:
            while channel.is_busy:
                if channel.has_news():
                    await self._turn_of_channel()
                    # There may be none any more: a job can be over while its channel waits.
                    if (news := channel.next()) is not None:
                        await self._show(news)
                await asyncio.sleep(self._seconds)
        finally:
            del self._channels[channel_id]

    async def _turn_of_channel(self) -> None:
        now = asyncio.get_running_loop().time()
        self._next_edit = max(now, self._next_edit + 1 / _EDITS)
        await asyncio.sleep(self._next_edit - now)

    async def _show(self, news: _News) -> None:
        editing = asyncio.create_task(self._edit_and_note(news))
        self._editing[news.job.id] = editing
        await asyncio.wait({editing})
        del self._editing[news.job.id]

    async def _edit_and_note(self, news: _News) -> None:
        # Noted in the task that `drop` waits for, or it could be noted after that.
        job, event = news.job, news.now()
        channel = self._channels[job.channel_id]
        channel.shown.pop(job.id, None)
        if await self._edit(job, news.message_id, event):
            channel.shown[job.id] = _Shown(news, event)
        elif news.is_urgent and news.tries + 1 < _TRIES:
            again = dataclasses.replace(news, tries=news.tries + 1)
            channel.latest.setdefault(job.id, again)
