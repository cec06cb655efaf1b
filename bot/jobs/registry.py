"""The jobs under way: accepted, and neither delivered nor ended in another way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from generation.values.events import Event
from storage.records import Job

from .tasks import Background

_ANNOUNCED_SECONDS: Final = 3.0


def _pending_message_id() -> asyncio.Future[int | None]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class JobUnderWay:
    """A job with its message and its news.

    `message_id` is done once the message is sent, with None if there is no message. `latest` is
    the newest event of the job.
    """

    job: Job
    message_id: asyncio.Future[int | None] = field(default_factory=_pending_message_id)
    latest: Event | None = None

    @property
    def known_message_id(self) -> int | None:
        """Return the id of the message, or None while there is none."""
        return self.message_id.result() if self.message_id.done() else None


class Registry:
    """Knows every job under way, from its start until the one task that works on it has ended."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._jobs: dict[int, JobUnderWay] = {}

    def __len__(self) -> int:
        """Return how many jobs are under way."""
        return len(self._jobs)

    def __contains__(self, job_id: int) -> bool:
        """Return whether a job is under way."""
        return job_id in self._jobs

    def __getitem__(self, job_id: int) -> JobUnderWay:
        """Return a job under way.

        Raises:
            KeyError: the job is not under way.
        """
        return self._jobs[job_id]

    def get(self, job_id: int) -> JobUnderWay | None:
        """Return a job under way, or None if the job is not under way."""
        return self._jobs.get(job_id)

    def ids(self) -> frozenset[int]:
        """Return the ids of all jobs under way."""
        return frozenset(self._jobs)

    def start(self, under_way: JobUnderWay, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Register a job and run `work` in a task; the job is under way until `work` ends.

        `name` says in the log what `work` does.
        """
        self._jobs[under_way.job.id] = under_way
        self._background.start(self._run(under_way.job.id, work), name)

    async def _run(self, job_id: int, work: Callable[[], Awaitable[None]]) -> None:
        with self._unregistering(job_id):
            running = work()
            # The arguments bound to `work` may hold pictures, which `running` frees early.
            del work
            await running

    @contextmanager
    def _unregistering(self, job_id: int) -> Iterator[None]:
        try:
            yield
        finally:
            self._jobs.pop(job_id, None)

    async def all_messages_known(self, *, after: asyncio.Event) -> None:
        """Wait for `after`, and then until the message of each job under way is known.

        Raises:
            TimeoutError: some messages were still not known after some seconds.
        """
        async with asyncio.timeout(_ANNOUNCED_SECONDS):
            await after.wait()
            unknown = [under_way.message_id for under_way in self._jobs.values()]
            await asyncio.gather(*map(asyncio.shield, unknown))

    async def messages_in(self, channel_id: int) -> dict[int, int]:
        """Return the jobs under way in a channel: the ids of their messages with their own.

        Messages that are just being sent are waited for, some seconds at most.
        """
        here = [one for one in self._jobs.values() if one.job.channel_id == channel_id]
        if unknown := [one.message_id for one in here if not one.message_id.done()]:
            await asyncio.wait(unknown, timeout=_ANNOUNCED_SECONDS)
        known = [(one.known_message_id, one.job.id) for one in here]
        return {message_id: job_id for message_id, job_id in known if message_id is not None}
