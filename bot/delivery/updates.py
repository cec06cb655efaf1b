"""What the messages of one channel should say next, and in which order."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from generation.values.events import Event, Loading, Progress, Waiting
from storage.records import Job

from ..ui import messages, states


@dataclass(frozen=True, slots=True)
class Update:
    """An event that a job's message should show; `since` is the event loop's time of the event."""

    job: Job
    message_id: int
    event: Event
    since: float
    failures: int = 0

    @property
    def is_urgent(self) -> bool:
        """Return whether the message is wrong now: the job makes no progress."""
        event = self.event
        return isinstance(event, Loading) or (isinstance(event, Progress) and event.late)

    @property
    def position(self) -> int:
        """Return the position in the queue, 0 for a job outside the queue."""
        return self.event.position if isinstance(self.event, Waiting) else 0

    def replacing(self, older: Update | None) -> Update:
        """Return this update with the preview of the `older` one, if this one has no preview."""
        if older is None or not isinstance(self.event, Progress) or self.event.preview:
            return self
        preview = getattr(older.event, "preview", None)
        return dataclasses.replace(self, event=dataclasses.replace(self.event, preview=preview))

    def event_now(self) -> Event:
        """Return the event with its estimate reduced by the time since then."""
        return states.aged(self.event, asyncio.get_running_loop().time() - self.since)


@dataclass(frozen=True, slots=True)
class Shown:
    """The update that a message shows, and the event at the time of the edit."""

    update: Update
    event: Event

    @property
    def is_stale(self) -> bool:
        """Return whether the estimate has changed its words, or has expired."""
        job = self.update.job
        return messages.waiting(job, self.update.event_now()) != messages.waiting(job, self.event)

    def renewed(self) -> Update:
        """Return the update to show instead, without the preview: the message has that already."""
        event = self.update.event
        if isinstance(event, Progress):
            event = dataclasses.replace(event, preview=None)
        return dataclasses.replace(self.update, event=event)


@dataclass(slots=True)
class ChannelUpdates:
    """The latest updates of a channel and what its messages show, by the ids of the jobs."""

    latest: dict[int, Update] = field(default_factory=dict)
    shown: dict[int, Shown] = field(default_factory=dict)
    kinds: deque[_Kind] = field(default_factory=lambda: deque([_progress, _positions, _expired]))

    @property
    def is_busy(self) -> bool:
        """Return whether there is an update to show now, or an estimate that will expire."""
        return bool(self.latest) or any(
            shown.event.seconds is not None for shown in self.shown.values()
        )

    def has_changes(self) -> bool:
        """Return whether any message should change; drop updates that change no words."""
        for job_id, update in list(self.latest.items()):
            self._drop_unchanged(job_id, update)
        return bool(self.latest) or bool(_stale(self))

    def _drop_unchanged(self, job_id: int, update: Update) -> None:
        shown, event = self.shown.get(job_id), update.event_now()
        has_preview = isinstance(event, Progress) and event.preview is not None
        if shown is None or has_preview:
            return
        if messages.waiting(update.job, event) == messages.waiting(shown.update.job, shown.event):
            del self.latest[job_id]
            self.shown[job_id] = Shown(update, event)

    def next(self) -> Update | None:
        """Return the update to show first, if there is any.

        Urgent updates come before all others. The other kinds take turns.
        """
        for kind in (_urgent, *self.kinds, _stale):
            if (update := next(iter(kind(self)), None)) is not None:
                if kind in self.kinds:
                    self.kinds.remove(kind)
                    self.kinds.append(kind)
                self.latest.pop(update.job.id, None)
                return update
        return None


_Kind = Callable[[ChannelUpdates], Sequence[Update]]


def _urgent(channel: ChannelUpdates) -> Sequence[Update]:
    """Return the updates of jobs without progress, first where the message shows progress."""
    urgent = [update for update in channel.latest.values() if update.is_urgent]
    return sorted(urgent, key=lambda one: (one.failures, not _shows_progress(channel, one)))


def _shows_progress(channel: ChannelUpdates, update: Update) -> bool:
    shown = channel.shown.get(update.job.id)
    return shown is not None and isinstance(shown.event, Progress)


def _progress(channel: ChannelUpdates) -> Sequence[Update]:
    """Return the updates of running jobs."""
    return [update for update in channel.latest.values() if isinstance(update.event, Progress)]


def _positions(channel: ChannelUpdates) -> Sequence[Update]:
    """Return the updates of waiting jobs in the order of the queue.

    In any other order, a job further back could show a smaller position than a job before it.
    """
    waiting = [update for update in channel.latest.values() if isinstance(update.event, Waiting)]
    return sorted(waiting, key=lambda update: update.position)


def _expired(channel: ChannelUpdates) -> Sequence[Update]:
    """Return the updates that replace expired estimates."""
    return [update for update in _stale(channel) if update.event_now().seconds is None]


def _stale(channel: ChannelUpdates) -> Sequence[Update]:
    """Return the updates that replace estimates whose words have changed."""
    stale = [
        shown.renewed()
        for job_id, shown in channel.shown.items()
        if job_id not in channel.latest and shown.is_stale
    ]
    return sorted(stale, key=lambda update: update.position)
