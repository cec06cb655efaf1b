"""The store of jobs and their images."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import sqlite_utils

from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

from . import recovery
from .database import Database
from .deletion import jobs as deletion
from .errors import DatabaseDamaged, SourceGone, StorageError
from .pictures import rows
from .pictures.files import PictureFiles
from .queries import images, jobs
from .queries.conversion import Row, job_from_row
from .records import Job, NewJob, Removal, StoredImage
from .states import JobStatus
from .upkeep.secure_deletion import SecureDeletion

log = logging.getLogger(__name__)


class JobStore:
    """Jobs and images. When a method returns, its changes are on disk.

    A job moves from state to state as `storage.states.MOVES` allows. Any other move changes
    nothing and returns False; so does every move of a deleted job.

    Every method raises StorageError if the disk or the database fails.
    """

    def __init__(
        self, db: Database, pictures: PictureFiles, secure_deletion: SecureDeletion
    ) -> None:
        self._db = db
        self._pictures = pictures
        self._secure_deletion = secure_deletion

    async def add(self, new: NewJob) -> Job:
        """Store a new job, with the pictures that it needs, as queued; return the job.

        Raises:
            DatabaseDamaged: the database was found damaged before, so it accepts no new jobs.
        """
        if self._db.damage is not None:
            raise DatabaseDamaged(self._db.path, self._db.damage.fault)
        return await self._db.run_both(
            lambda db: rows.announce_pictures(db, self._pictures, _pixels_of(new)),
            lambda db, files: jobs.insert_job(db, self._pictures, new, files),
        )

    async def get(self, job_id: int) -> Job | None:
        """Return a job, deleted or not, or None if it does not exist.

        Raises:
            PictureMissing: a picture that the job needs is missing or damaged.
        """

        def read(db: sqlite_utils.Database) -> Job | None:
            row = jobs.job_row(db, job_id)
            return None if row is None else jobs.job_of(db, self._pictures, row)

        return await self._db.run(read)

    async def request_of(self, job_id: int) -> GenerationRequest:
        """Return the request of a job with the pixels of its pictures.

        Raises:
            PictureMissing: a file is missing or damaged.
            SourceGone: the job was deleted.
        """
        job = await self.get(job_id)
        if job is None or job.deleted:
            raise SourceGone(job_id)
        return job.request

    async def record(self, job_id: int) -> Job | None:
        """Return a job as `get` does, without the picture that it starts from.

        The request holds the sizes of its references.
        """
        return await self._db.run(lambda db: _without_source(jobs.job_row(db, job_id)))

    async def by_message(self, message_id: int) -> Job | None:
        """Return the newest job that a Discord message shows, as `record` does."""
        return await self._db.run(
            lambda db: _without_source(jobs.job_row_by_message(db, message_id))
        )

    async def ids_shown_in(self, message_ids: Sequence[int]) -> list[int]:
        """Return the ids of the jobs that these messages show, deleted jobs left out."""
        return await self._db.read(lambda db: jobs.ids_shown_in(db, message_ids))

    async def ids_in_channel(self, channel_id: int) -> list[int]:
        """Return the ids of the jobs of a channel, deleted jobs left out."""
        return await self._db.read(lambda db: jobs.ids_where(db, "channel_id", channel_id))

    async def ids_in_guild(self, guild_id: int) -> list[int]:
        """Return the ids of the jobs of a server, deleted jobs left out."""
        return await self._db.read(lambda db: jobs.ids_where(db, "guild_id", guild_id))

    async def channels_of(self, guild_id: int) -> list[int]:
        """Return the channels and threads of a server that have jobs, deleted jobs left out."""
        return await self._db.read(lambda db: jobs.channels_of(db, guild_id))

    async def set_message(self, job_id: int, message_id: int) -> None:
        """Record the Discord message that shows a job."""
        await self._db.run(lambda db: jobs.set_message(db, job_id, message_id))

    async def start(self, job_id: int) -> bool:
        """Move a queued or running job to running, and count one more attempt."""
        return await self._db.run(lambda db: jobs.start(db, job_id))

    async def requeue(self, job_id: int) -> bool:
        """Move a running job back to queued, and do not count this attempt."""
        return await self._db.run(lambda db: jobs.requeue(db, job_id))

    async def complete(self, job_id: int, made: Sequence[tuple[GeneratedImage, bytes]]) -> bool:
        """Store the images of a running job, each with its PNG file; move the job to generated.

        After a crash at any instant either all of it is stored or the job is still running.
        """

        def announce(db: sqlite_utils.Database) -> bool:
            is_running = jobs.has_status(db, job_id, JobStatus.RUNNING)
            if is_running:
                rows.announce_files(db, rows.files_of(made))
            return is_running

        def store(db: sqlite_utils.Database, is_running: bool) -> bool:
            if not is_running:
                return False
            images.insert_images(db, self._pictures, job_id, made)
            return jobs.move(db, job_id, to=JobStatus.GENERATED)

        return await self._db.run_both(announce, store)

    async def delivered(self, job_id: int, message_id: int) -> bool:
        """Move a generated job to delivered, and record the Discord message."""
        return await self._db.run(
            lambda db: jobs.move(db, job_id, to=JobStatus.DELIVERED, message_id=message_id)
        )

    async def fail(self, job_id: int, error: str) -> bool:
        """Move an unfinished job to failed; `error` is the sentence for the member.

        The source and the references of a job without images are removed, unless something else
        needs them.
        """
        moved = await self._db.run(lambda db: deletion.fail(db, job_id, error))
        await self._remove_files()
        return moved

    async def set_error(self, job_id: int, error: str) -> None:
        """Record why an unfinished job failed while its member cannot be told; the status stays.

        A generated job records nothing: its images are delivered later.
        """
        await self._db.run(lambda db: jobs.set_error(db, job_id, error))

    async def cancel(self, job_id: int, by: Removal | None = None) -> bool:
        """Move an unfinished job to cancelled.

        Its source and its references are removed, unless something else needs them.
        """
        moved = await self._db.run(lambda db: deletion.cancel(db, job_id, by))
        await self._remove_files()
        return moved

    async def cancellation_reported(self, job_id: int) -> None:
        """Record that the message of a cancelled job shows that, or does not exist."""
        await self._db.run(lambda db: jobs.set_cancellation_reported(db, job_id))

    async def unreported_cancellations(self) -> list[Job]:
        """Return the cancelled jobs whose messages do not show that yet, oldest first.

        Deleted jobs are left out. The requests are without their sources, which are removed.
        """
        return await self._db.run(
            lambda db: recovery.readable(jobs.unreported_cancellation_rows(db))
        )

    async def message_removed(self, job_id: int) -> None:
        """Record that the message of a deleted job is gone, or cannot be deleted."""
        await self._db.run(lambda db: deletion.forget_message(db, job_id))

    async def deleted_with_message(self) -> list[Job]:
        """Return the deleted jobs whose messages may still exist, oldest first."""
        return await self._db.run(lambda db: recovery.readable(jobs.deleted_rows_with_message(db)))

    async def unfinished(
        self, known: Collection[int] = ()
    ) -> list[tuple[Job, StorageError | None]]:
        """Return the unfinished jobs, oldest first, each with the error of its pictures or None.

        The error says why a picture cannot be read; the request is then without a source. Otherwise
        the request holds the sizes of its pictures only: `request_of` returns the pixels.
        Jobs with `known` ids are left out. Jobs whose rows cannot be read are logged and left out.
        """
        return await self._db.run(lambda db: recovery.unfinished_jobs(db, self._pictures, known))

    async def images(self, job_id: int) -> list[StoredImage]:
        """Return the images of a job in order, deleted images too."""
        return await self._db.run(lambda db: images.images_of(db, job_id))

    async def image(self, job_id: int, number: int) -> StoredImage | None:
        """Return image `number` of a job, counted from 1; None if it is deleted or missing."""
        found = await self.images(job_id)
        return next((i for i in found if i.index == number - 1 and not i.deleted), None)

    async def parent(self, job: Job) -> StoredImage | None:
        """Return the image that a job varies, deleted or not; None if it varies none."""
        image_id = job.parent_image_id
        if image_id is None:
            return None
        return await self._db.run(lambda db: images.image_by_id(db, image_id))

    async def read(self, image: StoredImage) -> bytes:
        """Return the PNG file of an image, byte for byte as it was stored.

        Raises:
            PictureMissing: the file is missing or damaged.
        """
        return await self._db.run(lambda _: self._pictures.read(image.sha256))

    async def delete(self, job_id: int, by: Removal | None = None) -> bool:
        """Delete the images and the content of a job; cancel the job if it is unfinished.

        The store keeps that the job was deleted, by whom, and where its message is. Files that
        nothing else needs are removed now. If that fails, the next deletion or the next start
        removes them. Their remnants in the database are overwritten soon after: see
        `storage.deletion`. Return False if the job does not exist or is already deleted.
        """
        return await self.delete_all([job_id], by) == 1

    async def delete_all(
        self,
        job_ids: Sequence[int],
        by: Removal | None = None,
        *,
        without_messages: bool = False,
    ) -> int:
        """Delete several jobs in one transaction, as `delete` does; return how many were deleted.

        `without_messages` says that the messages of the jobs are already gone.
        """
        count = await self._db.run(
            lambda db: deletion.forget_all(db, job_ids, by, without_messages=without_messages)
        )
        await self._remove_files()
        self._secure_deletion.request()
        return count

    async def _remove_files(self) -> None:
        # A transaction of its own: a rollback restores rows, but no files. The rows already say
        # that the files have to go, so an error concerns the operator and not the member.
        try:
            await self._db.run(lambda db: rows.remove_marked_files(db, self._pictures))
        except StorageError as error:
            log.error("The files of deleted pictures could not be removed yet. %s", error)


def _pixels_of(new: NewJob) -> tuple[Pixels, ...]:
    source, references = new.request.pixels, new.request.reference_pixels
    return references if source is None else (source, *references)


def _without_source(row: Row | None) -> Job | None:
    return None if row is None else job_from_row(row, None)
