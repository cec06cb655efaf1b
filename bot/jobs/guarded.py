"""The store of jobs, where each method retries, drops or raises a storage error."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest
from storage.errors import PASSING, UNWRITABLE, StorageError
from storage.jobs import JobStore
from storage.records import Job, Removal, StoredImage

from .courier_protocol import Picture
from .disk import DiskGuard

T = TypeVar("T")
OnWait = Callable[[], Awaitable[None]]


class GuardedStore:
    """The store of jobs as a job under way uses it.

    A full disk and a locked database pass. Until then, most methods retry; when the bot stops they
    raise the error. Some methods try once, and log and drop the error: the next start of the bot
    finds out what they would have recorded.
    """

    def __init__(self, jobs: JobStore, disk: DiskGuard) -> None:
        self._jobs = jobs
        self._disk = disk

    # Retried.

    async def unfinished(self, known: Collection[int]) -> list[tuple[Job, StorageError | None]]:
        """Return what `JobStore.unfinished` returns."""
        return await self._disk.retry(lambda: self._jobs.unfinished(known))

    async def unreported_cancellations(self) -> list[Job]:
        """Return the cancelled jobs whose messages do not say so yet."""
        return await self._disk.retry(self._jobs.unreported_cancellations)

    async def deleted_with_message(self) -> list[Job]:
        """Return the deleted jobs whose messages may still be there."""
        return await self._disk.retry(self._jobs.deleted_with_message)

    async def parent(self, job: Job) -> StoredImage | None:
        """Return the image that a job came from."""
        return await self._disk.retry(lambda: self._jobs.parent(job))

    async def delivered(self, job_id: int, message_id: int) -> bool:
        """Move a job to delivered."""
        return await self._disk.retry(lambda: self._jobs.delivered(job_id, message_id))

    async def fail(self, job_id: int, error: str) -> None:
        """Move a job to failed."""
        await self._disk.retry(lambda: self._jobs.fail(job_id, error))

    async def set_error(self, job_id: int, error: str) -> None:
        """Keep why a job failed, for the next start to report."""
        await self._disk.retry(lambda: self._jobs.set_error(job_id, error))

    async def delete(self, job_id: int, by: Removal) -> None:
        """Delete a job and its pictures."""
        await self._disk.retry(lambda: self._jobs.delete(job_id, by))

    # Retried, also while the folder cannot be used; `on_wait` is awaited before the first delay.

    async def complete(
        self,
        job_id: int,
        files: Sequence[tuple[GeneratedImage, bytes]],
        *,
        is_running: bool,
        on_wait: OnWait,
    ) -> bool:
        """Store the pictures of a job; return False if the job was cancelled.

        `is_running` is false if the store was not told yet that the job runs.
        """

        async def store() -> bool:
            nonlocal is_running
            if not is_running:
                await self._jobs.start(job_id)
                is_running = True
            return await self._jobs.complete(job_id, files)

        held = sum(len(image.pixels.rgb) + len(png) for image, png in files)
        return await self._disk.retry(store, held=held, on_wait=on_wait, passing=UNWRITABLE)

    async def pictures(self, job: Job, *, on_wait: OnWait) -> list[Picture]:
        """Return the pictures of a job that are not deleted, in order."""
        return await self._disk.retry(
            lambda: pictures_of(self._jobs, job), on_wait=on_wait, passing=UNWRITABLE
        )

    # Tried once; False means that the error was logged and dropped.

    async def start(self, job_id: int) -> bool:
        """Move a job to running; `complete` does that later if this fails."""
        return await self._try(self._jobs.start(job_id))

    async def requeue(self, job_id: int) -> bool:
        """Move a running job back to queued, so that this attempt is not counted."""
        return await self._try(self._jobs.requeue(job_id))

    async def set_message(self, job_id: int, message_id: int) -> bool:
        """Record the message of a job; the delivery records it again."""
        return await self._try(self._jobs.set_message(job_id, message_id))

    async def message_removed(self, job_id: int) -> bool:
        """Record that the message of a deleted job is gone; else the next start deletes it."""
        return await self._try(self._jobs.message_removed(job_id))

    async def cancellation_reported(self, job_id: int) -> bool:
        """Record that a cancellation is reported; else the next start reports it again."""
        return await self._try(self._jobs.cancellation_reported(job_id))

    async def as_stored(self, job: Job) -> Job:
        """Return a job as the store has it now, or `job` itself if the store cannot be read."""
        with contextlib.suppress(StorageError):
            return await self._jobs.record(job.id) or job
        return job

    # Raised: the engine's thread asks, and the job fails.

    async def request_of(self, job_id: int) -> GenerationRequest:
        """Return the request of a job with its pixels."""
        return await self._jobs.request_of(job_id)

    async def _try(self, write: Awaitable[Any]) -> bool:
        with contextlib.suppress(*PASSING), self._disk.report_failures():
            await write
            return True
        return False


async def pictures_of(jobs: JobStore, job: Job) -> list[Picture]:
    """Return the pictures of a job that are not deleted, in order.

    Raises:
        PictureMissing: a file is gone.
    """
    images = [image for image in await jobs.images(job.id) if not image.deleted]
    return [Picture(image=image, png=await jobs.read(image)) for image in images]
