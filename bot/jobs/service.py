"""The application service: every accepted job is stored, made, and delivered exactly once.

The service knows neither Discord nor torch. Requests come in through `submit`; pictures and
progress go out through a `Courier`. `bot.jobs.lifecycle` runs each job from the queue to its
delivery, and `bot.jobs.recovery` resumes unfinished jobs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from generation.queue.admission import Place
from generation.queue.queue import GenerationQueue
from generation.values.events import Event
from storage.errors import PASSING
from storage.jobs import JobStore
from storage.joined_guilds import JoinedGuilds
from storage.records import Job, NewJob, Removal
from storage.states import PENDING

from .courier_protocol import Courier, Picture
from .disk import DiskGuard
from .guarded import GuardedStore, pictures_of
from .lifecycle import Lifecycle
from .recovery import Recovery
from .registry import Registry
from .removals import Removals
from .reports import Reporter
from .tasks import Background

log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 10.0


class ImagineService:
    """Submits, shows, cancels, removes and resumes jobs."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        joined_guilds: JoinedGuilds,
        queue: GenerationQueue[Any],
        courier: Courier,
        disk: DiskGuard,
    ) -> None:
        self.jobs = jobs
        self._queue = queue
        self._disk = disk
        self._background = Background()
        self._under_way = Registry(self._background)
        store = GuardedStore(jobs, disk)
        self._reporter = Reporter(store, courier, self._under_way)
        self._lifecycle = Lifecycle(
            queue=queue,
            store=store,
            courier=courier,
            reporter=self._reporter,
            registry=self._under_way,
            on_unwritable=self._resume_when_writable,
        )
        self._recovery = Recovery(
            store=store,
            disk=disk,
            courier=courier,
            reporter=self._reporter,
            lifecycle=self._lifecycle,
            registry=self._under_way,
            background=self._background,
        )
        self.removals = Removals(
            jobs=jobs,
            joined_guilds=joined_guilds,
            cancel=queue.cancel,
            sent_in=self._under_way.messages_in,
            disk=disk,
        )

    @contextlib.contextmanager
    def reserve(self, user_id: int, guild_id: int | None) -> Iterator[Place]:
        """Reserve the place of a person's job in the queue while the job is being prepared.

        Raises:
            QueueFull: too many jobs wait, of all people, of the server or of the person.
        """
        with self._queue.reserve(user_id, guild_id) as place:
            yield place

    async def submit(self, new: NewJob, place: Place | None = None) -> Job:
        """Store a job and queue it; once this returns, the job is never lost.

        `place` is the job's place, if `reserve` has reserved one. The caller then shows the job to
        the person and calls `announced`.

        Raises:
            QueueFull: no place was reserved, and there is none.
            DiskFull: there is no room for the job, or too little for its pictures.
            FolderUnusable: the pictures could not be written.
            StorageError: the job could not be written.
        """
        if place is None:
            with self.reserve(new.user_id, new.guild_id) as reserved:
                return await self.submit(new, reserved)
        job = (await self._disk.admit(lambda: self.jobs.add(new))).without_pixels()
        self._lifecycle.enqueue(job)
        # Nothing is awaited in between, so the queue counts either the job or its place.
        place.release()
        return job

    def latest(self, job: Job) -> Event | None:
        """Return the newest event of a job under way, if there was any."""
        under_way = self._under_way.get(job.id)
        return None if under_way is None else under_way.latest

    async def announced(
        self, job: Job, message_id: int | None, *, says: Event | None = None
    ) -> None:
        """Record which message answers `job`, and which event that message shows.

        `message_id` is None if no message could be sent.
        """
        await self._reporter.announced(job, message_id, says=says)

    async def shown_in(self, message_id: int) -> Job | None:
        """Return the newest job that a message shows, deleted or not.

        People may see a message, and react to it, before the store knows it: when it was sent just
        now, or before a crash. So this waits some seconds for the messages of jobs under way.
        """
        if (job := await self.jobs.by_message(message_id)) is not None:
            return job
        with contextlib.suppress(TimeoutError):
            await self._under_way.all_messages_known(after=self._recovery.done)
        return await self.jobs.by_message(message_id)

    async def pictures(self, job: Job) -> list[Picture]:
        """Return the pictures of a job that are not deleted, in order.

        Raises:
            PictureMissing: a file is gone.
        """
        return await pictures_of(self.jobs, job)

    async def cancel_or_remove(self, job: Job, by: Removal | None = None) -> None:
        """Cancel a job that is not finished; delete the message and pictures of a finished one.

        `by` is the person who asked for it, and is stored.

        Raises:
            StorageError: that could not be written.
        """
        with self._disk.report_failures():
            await self._cancel_or_remove(job, by)

    async def _cancel_or_remove(self, job: Job, by: Removal | None) -> None:
        if (
            job.status in PENDING
            and await self.jobs.cancel(job.id, by)
            # False if the pictures were finished just now: then they have to be deleted.
            and self._queue.cancel(job.id)
        ):
            log.info("Job %s was cancelled by %s", job.id, by)
            return
        await self.jobs.delete(job.id, by)
        log.info("Job %s was deleted by %s", job.id, by)
        if job.message_id is not None:
            await self._reporter.remove_message(job, job.message_id)

    def in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in a task of its own, which gets some seconds to end when the bot stops."""
        self._background.start(work, name)

    def message_gone(self, job: Job) -> None:
        """Delete a job whose message was deleted: nobody would see its pictures."""
        deleting = self._delete_gone(job)
        self._background.start(deleting, f"delete job {job.id}, whose message is gone")

    async def _delete_gone(self, job: Job) -> None:
        with contextlib.suppress(*PASSING):
            await self.removals.job_gone(job)

    async def resume(self) -> int:
        """Resume every job that was accepted before and not answered; return how many.

        Raises:
            StorageError: the database cannot be read, and no job is resumed.
        """
        return await self._recovery.resume()

    def _resume_when_writable(self) -> None:
        self._recovery.resume_when_writable()

    async def close(self) -> None:
        """Give deliveries some seconds to end; the next start resumes the others."""
        self._disk.close()
        await self._background.close(patience=_CLOSE_SECONDS)
