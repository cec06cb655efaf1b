"""The life of a job: from the queue over the engine and the disk to its delivery."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from generation.images.png import write_png
from generation.queue.fairness import Share
from generation.queue.queue import GenerationQueue
from generation.queue.tickets import JobCancelled, QueueClosed, Ticket
from generation.values.events import Interruption
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest
from storage.errors import UNWRITABLE, StorageError
from storage.records import Job, Removal, Remover

from ..errors import sentence
from .courier_protocol import Courier, MessageGone, Undeliverable
from .guarded import GuardedStore
from .registry import JobUnderWay, Registry
from .reports import Reporter

log = logging.getLogger(__name__)


class Lifecycle:
    """Runs each job in one task, from the queue to its delivery.

    `on_unwritable` is called when the pictures of a job cannot be stored. The job is queued again
    in the store and needs a resume.
    """

    def __init__(
        self,
        *,
        queue: GenerationQueue[Any],
        store: GuardedStore,
        courier: Courier,
        reporter: Reporter,
        registry: Registry,
        on_unwritable: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._store = store
        self._courier = courier
        self._reporter = reporter
        self._registry = registry
        self._on_unwritable = on_unwritable

    def enqueue(self, job: Job, *, alone: bool = False, after: Interruption | None = None) -> None:
        """Queue a stored job and start the task that follows it.

        `alone` keeps other jobs off the engine while this one runs. `after` is the interruption
        after which the job waits again.

        Raises:
            QueueClosed: the bot stops.
        """
        under_way = JobUnderWay(job)
        ticket = self._queue.submit(
            job.id,
            job.request,
            partial(self._reporter.report_event, under_way),
            # All direct messages together share the engine like one server.
            Share(group=job.guild_id, member=job.user_id, weight=job.weight),
            read_request=self._request_reader(job.id),
            alone=alone,
            after=after,
        )
        self._registry.start(under_way, partial(self._run, job, ticket), f"run job {job.id}")

    def redeliver(self, job: Job) -> None:
        """Start to deliver the stored pictures of a job."""
        work = partial(self._redeliver, job)
        self._registry.start(JobUnderWay(job), work, f"deliver job {job.id}")

    def _request_reader(self, job_id: int) -> Callable[[], GenerationRequest]:
        """Return the function by which the engine's thread reads a request with its pixels."""
        loop = asyncio.get_running_loop()

        def read() -> GenerationRequest:
            return asyncio.run_coroutine_threadsafe(self._store.request_of(job_id), loop).result()

        return read

    async def _run(self, job: Job, ticket: Ticket) -> None:
        await ticket.started_or_ended()
        is_running = False
        try:
            is_running = ticket.started.done() and await self._store.start(job.id)
            is_stored = await self._store_images(job, await ticket.images, is_running=is_running)
            # The ticket holds the pictures, and Discord may be out of reach for hours.
            del ticket
            if is_stored:
                await self._deliver(job)
            else:
                await self._reporter.report_cancellation(job)
        except JobCancelled:
            await self._reporter.report_cancellation(job)
        except QueueClosed:
            log.info("Job %s waits for the next start", job.id)
            # An attempt counts only if the job itself may have ended the bot.
            if is_running and not self._queue.is_dead:
                await self._store.requeue(job.id)
        except UNWRITABLE as error:
            log.warning("Job %s waits until its pictures can be stored: %s", job.id, error)
            self._on_unwritable()
            await self._store.requeue(job.id)
        except Exception as error:
            # If the storage failed, the engine may still work on the job.
            self._queue.cancel(job.id)
            await self._reporter.report_failure(job, sentence(error))

    async def _store_images(
        self, job: Job, images: Sequence[GeneratedImage], *, is_running: bool
    ) -> bool:
        """Store the pictures of a job; return False if the job was cancelled meanwhile.

        Raises:
            DiskFull: there is no room; the same pictures are made again when there is room.
            FolderUnusable: the same for a folder that the operator has to fix.
            DatabaseBusy: another program has locked the database, and the bot stops.
        """
        # Not on the event loop: compressing large pictures takes a good part of a second.
        files = await asyncio.to_thread(
            lambda: [
                (image, write_png(image.pixels, image.recipe, origin=job.origin_of(image.index)))
                for image in images
            ]
        )
        return await self._store.complete(
            job.id, files, is_running=is_running, on_wait=partial(self._reporter.report_wait, job)
        )

    async def _redeliver(self, job: Job) -> None:
        try:
            await self._deliver(job)
        except UNWRITABLE as error:
            log.warning("Job %s waits for the next start: %s", job.id, error)
        except Exception as error:
            await self._reporter.report_failure(job, sentence(error))

    async def _deliver(self, job: Job) -> None:
        """Show the stored pictures in the job's message and record that."""
        on_wait = partial(self._reporter.report_wait, job)
        read = partial(self._store.pictures, job, on_wait=on_wait)
        try:
            message_id = await self._reporter.message_of(job)
            parent = await self._store.parent(job)
            await self._courier.deliver(job, message_id, read, parent)
        except MessageGone:
            await self._delete_with_message(job)
        except UNWRITABLE:
            raise
        except Undeliverable as error:
            log.warning("Job %s cannot be delivered: %s", job.id, str(error.__cause__ or error))
            # The job fails but keeps its pictures: its owner finds them in the history.
            text = f"{error} /history shows you the pictures."
            await self._reporter.report_failure(job, text)
        except StorageError as error:
            log.warning("Job %s cannot be delivered: %s", job.id, error)
            await self._reporter.report_failure(job, str(error))
        else:
            await self._record_delivery(job, message_id)

    async def _delete_with_message(self, job: Job) -> None:
        """Delete a job whose message was deleted.

        The person who deleted the message does not want the pictures to be seen. Without the
        message there is also no button to remove the pictures.
        """
        log.info("Job %s: its message was deleted, and so are its pictures", job.id)
        await self._store.delete(job.id, Removal(Remover.DISCORD))
        await self._store.message_removed(job.id)

    async def _record_delivery(self, job: Job, message_id: int) -> None:
        """Record that the pictures are shown; they stay there if that cannot be recorded.

        The next start then delivers them once more, which changes nothing.
        """
        try:
            is_recorded = await self._store.delivered(job.id, message_id)
        except StorageError as error:
            log.error("The delivery of job %s cannot be recorded: %s", job.id, error)
            return
        if not is_recorded:
            log.info("Job %s was removed during its delivery", job.id)
            await self._reporter.remove_message(job, message_id)
