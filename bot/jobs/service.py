"""The application service: what is accepted is stored, made, and delivered exactly once.

It knows neither Discord nor torch. Requests come in through `submit`; pictures and progress
go out through a `Courier`. Each accepted job is carried by one task from the queue to its
delivery; after a restart `resume` takes up what was left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from generation.errors import SetAside
from generation.images.png import to_png
from generation.queue.admission import Place
from generation.queue.fairness import Share
from generation.queue.queue import GenerationQueue
from generation.queue.tickets import JobCancelled, QueueClosed, Ticket
from generation.values.events import Event, Interruption
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from storage.errors import PASSING, UNWRITABLE, PictureMissing, StorageError
from storage.jobs import JobStore
from storage.records import Job, NewJob, Removal, Remover
from storage.states import PENDING, JobStatus

from ..errors import sentence
from .courier import Courier, MessageGone, Picture, Unanswered, Undeliverable
from .disk import DiskGuard
from .removals import Removals
from .tasks import Background

log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 10.0
_ANNOUNCED_SECONDS: Final = 3.0
# Begun so often and never over, since the bot ended in the middle: it may be what ended it. So it
# is made with nobody beside it from then on, and in the end no more. A machine that is switched off
# at bad moments looks the same, so that is many more than an engine's two
# (`generation.queue.worker`).
_SUSPECT_ATTEMPTS: Final = 2
_ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class Placed:
    """An order with the place that is held for it."""

    order: NewJob
    place: Place


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A job between acceptance and delivery: its message, once that is known, and the news."""

    channel_id: int
    message_id: asyncio.Future[int | None]
    latest: Event | None = None


def _under_way(job: Job) -> _UnderWay:
    return _UnderWay(job.channel_id, asyncio.get_running_loop().create_future())


class ImagineService:
    """Submits, carries, cancels, removes and resumes jobs."""

    def __init__(
        self, *, jobs: JobStore, queue: GenerationQueue[Any], courier: Courier, disk: DiskGuard
    ) -> None:
        self.jobs = jobs
        self._queue = queue
        self._courier = courier
        self._disk = disk
        self._under_way: dict[int, _UnderWay] = {}
        self._background = Background()
        self._resumed = asyncio.Event()
        self._waits_for_disk = False
        self.removals = Removals(jobs=jobs, cancel=queue.cancel, sent_in=self.sent_in, disk=disk)

    @contextlib.contextmanager
    def place(self, user_id: int, guild_id: int | None) -> Iterator[Place]:
        """Hold the place of a person's job while its order is being made.

        Raises:
            QueueFull: too many jobs are waiting, of all, of their server or of theirs.
        """
        with self._queue.reserve(user_id, guild_id) as place:
            yield place

    async def submit(self, order: NewJob | Placed) -> Job:
        """Commit a job and queue it; once this returns, it is never lost.

        The caller then shows the job to the person and reports by `announced`.

        Raises:
            QueueFull: no place was held for it, and there is none.
            DiskFull: there is no room for it, or too little for its pictures.
            FolderUnusable: its pictures could not be written.
            StorageError: it could not be written.
        """
        if isinstance(order, NewJob):
            with self.place(order.user_id, order.guild_id) as place:
                return await self.submit(Placed(order, place))
        job = (await self._disk.admit(lambda: self.jobs.add(order.order))).without_pixels()
        self._enqueue(job)
        # Nothing is awaited in between: nobody sees both, or neither.
        order.place.release()
        return job

    def latest(self, job: Job) -> Event | None:
        """Return what was last told of a job that is not over, if anything was."""
        under_way = self._under_way.get(job.id)
        return None if under_way is None else under_way.latest

    async def announced(
        self, job: Job, message_id: int | None, *, says: Event | None = None
    ) -> None:
        """Record which message answers `job`, and as it is after which event, if any.

        None if none could be sent.
        """
        under_way = self._under_way.get(job.id)
        if under_way is not None and not under_way.message_id.done():
            under_way.message_id.set_result(message_id)
            latest = under_way.latest
            # An estimate has to be known to the courier, which takes it back when it runs out.
            is_news = latest is not None and (latest != says or latest.seconds is not None)
            if message_id is not None and latest is not None and is_news:
                self._courier.progress(job, message_id, latest)
        if message_id is not None:
            await self._record_message(job, message_id)

    async def shown_in(self, message_id: int) -> Job | None:
        """Return the newest job that a message shows, deleted or not.

        A message may be seen, and reacted to, before it is known here that it was sent: just
        now, or before a crash.
        """
        if (job := await self.jobs.by_message(message_id)) is not None:
            return job
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANNOUNCED_SECONDS):
                await self._resumed.wait()
                unknown = [one.message_id for one in self._under_way.values()]
                await asyncio.gather(*map(asyncio.shield, unknown))
        return await self.jobs.by_message(message_id)

    async def sent_in(self, channel_id: int) -> dict[int, int]:
        """Return the jobs under way in a channel: the ids of their messages with their own.

        Messages that are just being sent are waited for, some seconds at most.
        """
        here = [
            (job_id, one) for job_id, one in self._under_way.items() if one.channel_id == channel_id
        ]
        if unknown := [one.message_id for _, one in here if not one.message_id.done()]:
            await asyncio.wait(unknown, timeout=_ANNOUNCED_SECONDS)
        known = [(one.message_id.result(), job_id) for job_id, one in here if one.message_id.done()]
        return {message_id: job_id for message_id, job_id in known if message_id is not None}

    async def pictures(self, job: Job) -> list[Picture]:
        """Return the pictures of a job that are not deleted, in order.

        Raises:
            PictureMissing: a file is gone.
        """
        images = [image for image in await self.jobs.images(job.id) if not image.deleted]
        return [Picture(image=image, png=await self.jobs.read(image)) for image in images]

    async def cancel_or_remove(self, job: Job, by: Removal | None = None) -> None:
        """Cancel a job that is not finished, or delete the message and pictures of one that is.

        `by` is who wants it, which is kept.

        Raises:
            StorageError: that could not be written.
        """
        with self._disk.report_failures():
            await self._cancel_or_remove(job, by)

    def in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do `work` beside the rest; when the bot stops it has a moment to end."""
        self._background.start(work, name)

    def message_gone(self, job: Job) -> None:
        """Delete a job whose message was found to be deleted: nobody would see its pictures."""
        self._background.start(self._let_go(job), f"delete job {job.id}, whose message is gone")

    async def _let_go(self, job: Job) -> None:
        with contextlib.suppress(*PASSING):
            await self.removals.job_gone(job)

    async def _cancel_or_remove(self, job: Job, by: Removal | None) -> None:
        if (
            job.status in PENDING
            and await self.jobs.cancel(job.id, by)
            # Not if its pictures were finished just now: then they have to go as well.
            and self._queue.cancel(job.id)
        ):
            log.info("Job %s was cancelled by %s", job.id, by)
            return
        await self.jobs.delete(job.id, by)
        log.info("Job %s was deleted by %s", job.id, by)
        if job.message_id is not None:
            await self._remove_message(job, job.message_id)

    async def _remove_message(self, job: Job, message_id: int) -> None:
        """Delete the message of a deleted job, and record that; after a crash it is done again."""
        try:
            await self._courier.remove(job, message_id)
        except Unanswered:
            log.warning("The message of job %s may still be there; tried at the next start", job.id)
            return
        with contextlib.suppress(*PASSING), self._disk.report_failures():
            await self.jobs.message_removed(job.id)

    async def resume(self) -> int:
        """Take up every job that was accepted before and not answered; return how many.

        Raises:
            StorageError: the database cannot be read; nothing is taken up yet.
        """
        # In this order, or a job that somebody removes or cancels in between would be in two. The
        # unfinished ones last, with nothing awaited after it: one that came in since the start may
        # be over by then, and would look like one from before.
        removed = await self._disk.retry(self.jobs.not_removed)
        cancelled = await self._disk.retry(self.jobs.not_withdrawn)
        known = frozenset(self._under_way)
        unfinished = await self._disk.retry(lambda: self.jobs.unfinished_or_stranded(known))
        for job in removed:
            if job.message_id is not None and job.id not in self._under_way:
                removing = self._remove_message(job, job.message_id)
                self._background.start(removing, f"remove the message of job {job.id}")
        left = [*unfinished, *((job, None) for job in cancelled)]
        count = 0
        for job, fault in left:
            # What came in since the start is under way already.
            if job.id not in self._under_way and self._take_up(job, fault):
                self._background.start(self._find_message(job), f"find the message of job {job.id}")
                count += 1
        self._resumed.set()
        return count

    def _take_up(self, job: Job, fault: Exception | None) -> bool:
        """Go on with a job from before a restart where it stands, or say why that cannot be.

        Returns False if perhaps it can at the next start.
        """
        if job.error is not None:
            # It failed before the restart, and Discord did not answer to that.
            self._give_up(job, job.error)
            return True
        if job.status is JobStatus.RUNNING and job.attempts >= _ATTEMPTS:
            fault = SetAside()
        if fault is not None:
            log.error("Job %s cannot go on: %s", job.id, fault)
        if isinstance(fault, StorageError) and not isinstance(fault, PictureMissing):
            # The operator can fix what keeps its file from being read.
            return False
        if fault is not None:
            self._give_up(job, str(fault))
        elif job.status is JobStatus.GENERATED:
            self._begin(job)
            self._background.start(self._redeliver(job), f"deliver job {job.id}")
        elif job.status is JobStatus.CANCELLED:
            self._begin(job)
            self._background.start(self._withdraw_late(job), f"withdraw job {job.id}")
        else:
            is_suspect = job.status is JobStatus.RUNNING and job.attempts >= _SUSPECT_ATTEMPTS
            # A job that is taken up later waited for room on the disk, in this process.
            after: Interruption | None = None if self._resumed.is_set() else "bot"
            self._enqueue(job, alone=is_suspect, after=after)
        return True

    def _give_up(self, job: Job, text: str) -> None:
        self._begin(job)
        self._background.start(self._apologise_late(job, text), f"give up job {job.id}")

    async def close(self) -> None:
        """Give deliveries that are under way a moment to end; the rest waits for `resume`."""
        self._disk.close()
        await self._background.close(patience=_CLOSE_SECONDS)

    def _begin(self, job: Job) -> None:
        self._under_way[job.id] = _under_way(job)

    def _enqueue(self, job: Job, *, alone: bool = False, after: Interruption | None = None) -> None:
        under_way = _under_way(job)

        def listener(event: Event) -> None:
            under_way.latest = event
            message_id = under_way.message_id.result() if under_way.message_id.done() else None
            if message_id is not None:
                self._courier.progress(job, message_id, event)

        # All direct messages together share the engine like one server.
        share = Share(group=job.guild_id, member=job.user_id, weight=job.weight)
        ticket = self._queue.submit(
            job.id,
            job.request,
            listener,
            share,
            read_source=self._source_reader(job),
            alone=alone,
            after=after,
        )
        self._under_way[job.id] = under_way
        self._background.start(self._run_job(job, ticket), f"run job {job.id}")

    def _source_reader(self, job: Job) -> Callable[[], Pixels]:
        """Return what reads the pixels that a job starts from, for the engine thread."""
        loop = asyncio.get_running_loop()

        def read() -> Pixels:
            return asyncio.run_coroutine_threadsafe(self.jobs.source_of(job.id), loop).result()

        return read

    async def _find_message(self, job: Job) -> None:
        """Announce the message of a job from before a restart, if it ever had one."""
        if job.message_id is not None:
            await self.announced(job, job.message_id)
            return
        try:
            await self.announced(job, await self._courier.find(job))
        except (MessageGone, Undeliverable) as error:
            log.warning("The message of job %s cannot be looked for: %s", job.id, error)
            await self.announced(job, None)
        except Exception:
            # Whatever it is, such as a message that discord.py cannot read: the job must not wait.
            log.exception("The message of job %s cannot be looked for", job.id)
            await self.announced(job, None)

    async def _message_of(self, job: Job) -> int:
        """Return the message that answers `job`, posting one if none was ever sent."""
        message_id = await asyncio.shield(self._under_way[job.id].message_id)
        if message_id is None:
            message_id = await self._courier.post(job)
            await self._record_message(job, message_id)
        return message_id

    async def _record_message(self, job: Job, message_id: int) -> None:
        # It is recorded again with the delivery; before that, `Courier.find` would find it.
        with contextlib.suppress(*PASSING), self._disk.report_failures():
            await self.jobs.set_message(job.id, message_id)

    async def _run_job(self, job: Job, ticket: Ticket) -> None:
        """Follow one job from the queue to its delivery."""
        await ticket.started_or_ended()
        is_running = False
        try:
            is_running = ticket.started.done() and await self._start(job)
            is_kept = await self._keep(job, await ticket.images, is_running=is_running)
            # It holds the pictures, and Discord may be out of reach for hours.
            del ticket
            await (self._deliver(job) if is_kept else self._withdraw(job))
        except JobCancelled:
            await self._withdraw(job)
        except QueueClosed:
            log.info("Job %s waits for the next start", job.id)
            if is_running and not self._queue.is_dead:
                await self._park(job)
        except UNWRITABLE as error:
            log.warning("Job %s waits until its pictures can be stored: %s", job.id, error)
            self._wait_for_disk()
            await self._park(job)
        except Exception as error:
            # It may be the storage that failed: then the engine is still at it.
            self._queue.cancel(job.id)
            await self._apologise(job, sentence(error))
        finally:
            self._under_way.pop(job.id, None)

    def _wait_for_disk(self) -> None:
        if not self._waits_for_disk:
            self._waits_for_disk = True
            self._background.start(self._take_up_again(), "take up what waits for room")

    async def _take_up_again(self) -> None:
        """Have the pictures made once more that there was no room for, when there is some."""
        while await self._disk.wait_until_writable():
            # A job that gives up from here on is not seen by this call any more.
            self._waits_for_disk = False
            try:
                count = await self.resume()
            except QueueClosed:
                return
            except StorageError as error:
                log.warning("What waits for room cannot be taken up yet: %s", error)
                self._waits_for_disk = True
            else:
                log.info("There is room again: %s jobs are taken up", count)
                return

    async def _start(self, job: Job) -> bool:
        """Call a job running; False if not even that can be written now."""
        with contextlib.suppress(*PASSING), self._disk.report_failures():
            await self.jobs.start(job.id)
            return True
        return False

    async def _park(self, job: Job) -> None:
        """Record that it was not this job that ended the bot."""
        with contextlib.suppress(*PASSING), self._disk.report_failures():
            await self.jobs.park(job.id)

    async def _keep(self, job: Job, images: Sequence[GeneratedImage], *, is_running: bool) -> bool:
        """Store the pictures of a job; False if it was cancelled in the meantime.

        `is_running` says whether the store knows that it was begun.

        Raises:
            DiskFull: there is no room; made again when there is they will be the same.
            FolderUnusable: the same of a folder that the operator has to fix.
            DatabaseBusy: another program holds the database while the bot stops.
        """
        # Compressing large pictures takes a good part of a second: not on the event loop.
        files = await asyncio.to_thread(
            lambda: [
                (image, to_png(image.pixels, image.recipe, origin=job.origin_of(image.index)))
                for image in images
            ]
        )

        async def store() -> bool:
            nonlocal is_running
            if not is_running:
                await self.jobs.start(job.id)
                is_running = True
            return await self.jobs.complete(job.id, files)

        held = sum(len(image.pixels.rgb) + len(png) for image, png in files)
        return await self._disk.retry(
            store, held=held, on_wait=lambda: self._postpone(job), passing=UNWRITABLE
        )

    async def _redeliver(self, job: Job) -> None:
        try:
            await self._deliver(job)
        except UNWRITABLE as error:
            log.warning("Job %s waits for the next start: %s", job.id, error)
        except Exception as error:
            await self._apologise(job, sentence(error))
        finally:
            self._under_way.pop(job.id, None)

    async def _apologise_late(self, job: Job, text: str) -> None:
        """Apologise for a job that a restart found to be impossible, or to have failed before."""
        try:
            await self._apologise(job, text)
        finally:
            self._under_way.pop(job.id, None)

    async def _withdraw_late(self, job: Job) -> None:
        """Withdraw a job that a crash came upon between its cancellation and the word of it."""
        try:
            await self._withdraw(job)
        finally:
            self._under_way.pop(job.id, None)

    async def _deliver(self, job: Job) -> None:
        """Put stored pictures into the job's message and record that."""
        try:
            message_id = await self._message_of(job)
            parent = await self._disk.retry(lambda: self.jobs.parent(job))
            await self._courier.deliver(job, message_id, lambda: self._read(job), parent)
        except MessageGone:
            # The person who deleted it does not want the pictures to be seen, and without it there
            # is no button to take them away with.
            log.info("Job %s: its message was deleted, and so are its pictures", job.id)
            by = Removal(Remover.DISCORD)
            await self._disk.retry(lambda: self.jobs.delete(job.id, by))
            with contextlib.suppress(*PASSING), self._disk.report_failures():
                await self.jobs.message_removed(job.id)
        except UNWRITABLE:
            raise
        except Undeliverable as error:
            log.warning("Job %s cannot be delivered: %s", job.id, str(error.__cause__ or error))
            # It is called failed, and keeps its pictures: its owner finds them in the history.
            await self._apologise(job, f"{error} /history shows you the pictures.")
        except StorageError as error:
            log.warning("Job %s cannot be delivered: %s", job.id, error)
            await self._apologise(job, str(error))
        else:
            await self._record_delivery(job, message_id)

    async def _read(self, job: Job) -> list[Picture]:
        """Return the pictures of a job as `pictures` does, once they can be read."""
        return await self._disk.retry(
            lambda: self.pictures(job), on_wait=lambda: self._postpone(job), passing=UNWRITABLE
        )

    async def _record_delivery(self, job: Job, message_id: int) -> None:
        """Record that the pictures are shown; whatever keeps it from being so, they stay.

        They are delivered again after the next start then, which changes nothing.
        """
        try:
            if await self._disk.retry(lambda: self.jobs.delivered(job.id, message_id)):
                return
        except StorageError as error:
            log.error("That job %s is delivered cannot be recorded: %s", job.id, error)
            return
        log.info("Job %s was removed while it was being delivered", job.id)
        await self._remove_message(job, message_id)

    async def _apologise(self, job: Job, text: str) -> None:
        """Say that a job failed, then record it: after a crash in between it is said again.

        Without an answer nobody knows whether it is said, so the next start says it again, or
        delivers the pictures of a job that has some.
        """
        try:
            await self._courier.apologise(job, await self._message_of(job), text)
        except Unanswered:
            log.warning("Job %s failed, and the next start says so: no answer", job.id)
            await self._disk.retry(lambda: self.jobs.set_error(job.id, text))
            return
        except (MessageGone, Undeliverable) as gone:
            log.info("Job %s failed and nobody can be told: %s", job.id, gone)
        await self._disk.retry(lambda: self.jobs.fail(job.id, text))

    async def _postpone(self, job: Job) -> None:
        """Say that the pictures wait for room, if the job has a message to say it in."""
        message_id = self._under_way[job.id].message_id
        if message_id.done() and (known := message_id.result()) is not None:
            with contextlib.suppress(MessageGone, Undeliverable):
                await self._courier.postpone(job, known)

    async def _withdraw(self, job: Job) -> None:
        """Say that a job was cancelled, then record it: after a crash in between it is said again.

        A cancelled job whose message is gone, or cannot be edited, is not tried again either.
        """
        job = await self._as_stored(job)
        if job.deleted:
            # Its message is gone, or on its way.
            return
        try:
            await self._courier.withdraw(job, await self._message_of(job))
        except Unanswered:
            log.warning("Job %s: nothing says that it is cancelled until the next start", job.id)
            return
        except (MessageGone, Undeliverable) as error:
            log.info("Job %s was cancelled and its message is gone: %s", job.id, error)
        await self._record_withdrawal(job)

    async def _as_stored(self, job: Job) -> Job:
        """Return a job as the store has it, which knows who cancelled it, if that can be read."""
        with contextlib.suppress(StorageError):
            return await self.jobs.record(job.id) or job
        return job

    async def _record_withdrawal(self, job: Job) -> None:
        # Without room for it, it is said once more after the next start, which changes nothing.
        with contextlib.suppress(*PASSING), self._disk.report_failures():
            await self.jobs.withdrawn(job.id)
