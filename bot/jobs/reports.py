"""What a job's message says of the job: its progress, its wait for the disk, or how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from generation.values.events import Event
from storage.records import Job

from .courier_protocol import Courier, MessageGone, Unanswered, Undeliverable
from .guarded import GuardedStore
from .registry import JobUnderWay, Registry

log = logging.getLogger(__name__)


class Reporter:
    """Reports through the courier first and records that second.

    After a crash in between, the next start reports once more; no report is lost.
    """

    def __init__(self, store: GuardedStore, courier: Courier, registry: Registry) -> None:
        self._store = store
        self._courier = courier
        self._registry = registry

    async def announced(
        self, job: Job, message_id: int | None, *, says: Event | None = None
    ) -> None:
        """Record which message answers `job`, and which event that message shows.

        `message_id` is None if no message could be sent.
        """
        under_way = self._registry.get(job.id)
        if under_way is not None and not under_way.message_id.done():
            under_way.message_id.set_result(message_id)
            latest = under_way.latest
            # The courier has to know an estimate: it takes the estimate back when it runs out.
            is_news = latest is not None and (latest != says or latest.seconds is not None)
            if message_id is not None and latest is not None and is_news:
                self._courier.progress(job, message_id, latest)
        if message_id is not None:
            await self._store.set_message(job.id, message_id)

    def report_event(self, under_way: JobUnderWay, event: Event) -> None:
        """Keep an event of a job, and show it if the message of the job is known."""
        under_way.latest = event
        if (message_id := under_way.known_message_id) is not None:
            self._courier.progress(under_way.job, message_id, event)

    async def message_of(self, job: Job) -> int:
        """Return the message of a job under way; post a message if there is none."""
        message_id = await asyncio.shield(self._registry[job.id].message_id)
        if message_id is None:
            message_id = await self._courier.post(job)
            await self._store.set_message(job.id, message_id)
        return message_id

    async def report_wait(self, job: Job) -> None:
        """Report that the pictures of a job under way wait for the disk, if it has a message."""
        if (message_id := self._registry[job.id].known_message_id) is not None:
            with contextlib.suppress(MessageGone, Undeliverable):
                await self._courier.report_wait(job, message_id)

    async def report_failure(self, job: Job, text: str) -> None:
        """Report that a job failed.

        If Discord does not answer, the next start reports the failure again, or delivers the
        pictures of a job that has some.
        """
        try:
            await self._courier.report_failure(job, await self.message_of(job), text)
        except Unanswered:
            log.warning("Job %s failed; Discord does not answer, so the next start says so", job.id)
            await self._store.set_error(job.id, text)
            return
        except (MessageGone, Undeliverable) as error:
            log.info("Job %s failed, and its message cannot say so: %s", job.id, error)
        await self._store.fail(job.id, text)

    async def report_cancellation(self, job: Job) -> None:
        """Report that a job was cancelled.

        If the message is gone or cannot be edited, the next start does not try again.
        """
        # The stored job knows the person who cancelled it.
        job = await self._store.as_stored(job)
        if job.deleted:
            # Its message is deleted, or soon will be.
            return
        try:
            await self._courier.report_cancellation(job, await self.message_of(job))
        except Unanswered:
            log.warning("Job %s was cancelled; the next start says so in its message", job.id)
            return
        except (MessageGone, Undeliverable) as error:
            log.info("Job %s was cancelled, and its message cannot say so: %s", job.id, error)
        await self._store.cancellation_reported(job.id)

    async def remove_message(self, job: Job, message_id: int) -> None:
        """Delete the message of a deleted job; after a crash the next start deletes it."""
        try:
            await self._courier.remove(job, message_id)
        except Unanswered:
            log.warning("The message of job %s may still be there; tried at the next start", job.id)
            return
        await self._store.message_removed(job.id)
