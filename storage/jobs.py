"""The store of jobs: every question that the bot asks, answered in the database thread."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import sqlite_utils

from generation.request import GeneratedImage, Pixels

from . import erasing, guilds, keeping, queries, records, stripping, sweeping
from .database import Database
from .eraser import Eraser
from .errors import DatabaseDamaged, JobUnreadable, SourceGone, StorageError
from .pictures import PictureFiles
from .queries import UNFINISHED
from .records import (
    HistoryEntry,
    Job,
    JobKind,
    JobStatus,
    NewJob,
    Removal,
    Row,
    StoredImage,
)

log = logging.getLogger(__name__)

__all__ = ["HistoryEntry", "Job", "JobKind", "JobStatus", "JobStore", "NewJob", "StoredImage"]


class JobStore:
    """Jobs and images; what a method has returned from is on disk.

    A job moves queued -> running -> generated -> delivered, or to failed or cancelled, and from
    running back to queued where the bot is stopped. A move
    that does not start where the job stands changes nothing and returns False; so does every
    move of a deleted job.

    Every method raises StorageError when the disk or the database fails.
    """

    def __init__(self, db: Database, pictures: PictureFiles) -> None:
        self._db = db
        self._pictures = pictures
        self._searching = weakref.WeakValueDictionary[int, asyncio.Lock]()
        self._eraser = Eraser(db, pictures)

    async def close(self) -> None:
        """Erase from the files what was deleted."""
        await self._eraser.close()

    @property
    def folder(self) -> Path:
        """Return the folder of the picture files."""
        return self._pictures.folder

    async def tidy(self) -> None:
        """Finish half-written files and removals that a crash cut short; move unknown files aside.

        Only for the start, when nobody else works on the folder.
        """
        await asyncio.to_thread(self._pictures.sweep)
        await sweeping.sweep(self._db, self._pictures)
        await self._db.run(lambda db: keeping.remove_marked_files(db, self._pictures))
        if await self._db.run(lambda db: stripping.is_any_left(db) or not erasing.is_clean(db)):
            self._eraser.want()

    async def add(self, new: NewJob) -> Job:
        """Store a new job, queued, with the picture that it starts from, and return it.

        Raises:
            DatabaseDamaged: damage was met before, so nothing more is accepted.
        """
        if self._db.damage is not None:
            raise DatabaseDamaged(self._db.path, self._db.damage.fault)
        return await self._db.run_both(
            lambda db: keeping.announce_source(db, self._pictures, new.request.pixels),
            lambda db, file: queries.insert_job(db, self._pictures, new, file),
        )

    async def get(self, job_id: int) -> Job | None:
        """Return a job, deleted or not, or None when there is none.

        Raises:
            PictureMissing: the picture that it starts from is gone or damaged.
        """
        return await self._db.run(lambda db: self._job(queries.job_row(db, job_id)))

    async def source_of(self, job_id: int) -> Pixels:
        """Return the pixels that a job starts from.

        Raises:
            PictureMissing: their file is gone or damaged.
            SourceGone: the job was deleted, or starts from noise.
        """
        job = await self.get(job_id)
        source = None if job is None else job.request.source
        if not isinstance(source, Pixels):
            raise SourceGone(job_id)
        return source

    async def record(self, job_id: int) -> Job | None:
        """Return a job as `get` does, without the picture that it starts from, gone or not."""
        return await self._db.run(lambda db: _without_source(queries.job_row(db, job_id)))

    async def by_message(self, message_id: int) -> Job | None:
        """Return the newest job that a Discord message shows, deleted or not, without its source.

        A picture that it starts from may be gone: the job can be removed all the same.
        """
        return await self._db.run(
            lambda db: _without_source(queries.job_row_by_message(db, message_id))
        )

    def _job(self, row: Row | None) -> Job | None:
        return None if row is None else queries.job_of(self._pictures, row)

    async def ids_shown_in(self, message_ids: Sequence[int]) -> list[int]:
        """Return the ids of the jobs that are shown in any of these messages, and not deleted."""
        return await self._db.read(lambda db: queries.ids_shown_in(db, message_ids))

    async def ids_in_channel(self, channel_id: int) -> list[int]:
        """Return the ids of the jobs of a channel that are not deleted."""
        return await self._db.read(lambda db: queries.ids_where(db, "channel_id", channel_id))

    async def ids_in_guild(self, guild_id: int) -> list[int]:
        """Return the ids of the jobs of a server that are not deleted."""
        return await self._db.read(lambda db: queries.ids_where(db, "guild_id", guild_id))

    async def channels_of(self, guild_id: int) -> list[int]:
        """Return the channels and threads of a server where there are jobs that are not deleted."""
        return await self._db.read(lambda db: queries.channels_of(db, guild_id))

    async def joined_guilds(self, account_id: int, guild_ids: Collection[int]) -> None:
        """Remember that a bot account is in these servers."""
        await self._db.run(lambda db: guilds.join(db, account_id, guild_ids))

    async def missing_guilds(self, account_id: int, guild_ids: Collection[int]) -> list[int]:
        """Return the servers that a bot account was in and that are not among these."""
        return await self._db.read(lambda db: guilds.missing(db, account_id, guild_ids))

    async def left_guild(self, guild_id: int) -> None:
        """Forget a server that the bot has left, once its jobs are deleted."""
        await self._db.run(lambda db: guilds.forget(db, guild_id))

    async def set_message(self, job_id: int, message_id: int) -> None:
        """Remember the Discord message that shows a job."""
        await self._db.run(lambda db: queries.set_message(db, job_id, message_id))

    async def start(self, job_id: int) -> bool:
        """Call a queued job running, or a running one once more, and count the attempt."""
        return await self._db.run(lambda db: queries.start(db, job_id))

    async def park(self, job_id: int) -> bool:
        """Call a running job queued again: it was not the job that ended this attempt at it."""
        return await self._db.run(lambda db: queries.park(db, job_id))

    async def complete(self, job_id: int, images: Sequence[tuple[GeneratedImage, bytes]]) -> bool:
        """Store the images of a running job, each with its PNG file, and call it generated.

        After a crash at any instant either all of it is there or the job is still running.
        """

        def announce(db: sqlite_utils.Database) -> bool:
            is_running = queries.has_status(db, job_id, JobStatus.RUNNING)
            if is_running:
                keeping.announce_files(db, keeping.files_of(images))
            return is_running

        def store(db: sqlite_utils.Database, is_running: bool) -> bool:
            if not is_running:
                return False
            queries.insert_images(db, self._pictures, job_id, images)
            return queries.move(db, job_id, origins=(JobStatus.RUNNING,), to=JobStatus.GENERATED)

        return await self._db.run_both(announce, store)

    async def delivered(self, job_id: int, message_id: int) -> bool:
        """Call a generated job delivered, by that Discord message."""
        return await self._db.run(
            lambda db: queries.move(
                db,
                job_id,
                origins=(JobStatus.GENERATED,),
                to=JobStatus.DELIVERED,
                message_id=message_id,
            )
        )

    async def fail(self, job_id: int, error: str) -> bool:
        """Call an unfinished job failed, for the reason in that sentence.

        Without pictures its source is not kept either, unless something else needs it.
        """
        moved = await self._db.run(lambda db: _fail(db, job_id, error))
        await self._remove_files()
        return moved

    async def tell_later(self, job_id: int, error: str) -> None:
        """Keep why an unfinished job came to nothing, which nobody could be told yet.

        Its status stays. A generated job keeps no reason: its pictures are delivered later.
        """
        await self._db.run(lambda db: queries.set_error(db, job_id, error))

    async def cancel(self, job_id: int, by: Removal | None = None) -> bool:
        """Call an unfinished job cancelled; its source goes, unless something else needs it."""
        moved = await self._db.run(lambda db: erasing.cancel(db, job_id, by))
        await self._remove_files()
        return moved

    async def withdrawn(self, job_id: int) -> None:
        """Remember that the message of a cancelled job says so, or that there is none to say it."""
        await self._db.run(lambda db: queries.set_withdrawn(db, job_id))

    async def not_withdrawn(self) -> list[Job]:
        """Return the cancelled jobs, deleted ones left out, whose messages do not say so yet.

        The oldest come first. Their requests have lost their sources, which nobody needs now.
        """
        return await self._db.run(lambda db: _readable(queries.unwithdrawn_rows(db)))

    async def message_removed(self, job_id: int) -> None:
        """Remember that the message of a deleted job is gone, or cannot be deleted."""
        await self._db.run(lambda db: erasing.forget_message(db, job_id))

    async def not_removed(self) -> list[Job]:
        """Return the deleted jobs whose messages may still be there, the oldest first."""
        return await self._db.run(lambda db: _readable(queries.unremoved_rows(db)))

    async def unfinished(self) -> list[Job]:
        """Return the queued, running and generated jobs that can go on, the oldest first.

        One whose source cannot be read is left out: see `unfinished_or_stranded`.
        """
        return [job for job, fault in await self.unfinished_or_stranded() if fault is None]

    async def unfinished_or_stranded(
        self, known: Collection[int] = ()
    ) -> list[tuple[Job, StorageError | None]]:
        """Return the queued, running and generated jobs, the oldest first, and what stops them.

        That is the fault by which a job's source cannot be read; its request is without it then.
        Of a source that can be read, the request holds the size only: `source_of` returns its
        pixels. Jobs with `known` ids are left out. So is one whose row cannot be read; the log
        names it.
        """
        return await self._db.run(lambda db: self._unfinished(db, known))

    def _unfinished(
        self, db: sqlite_utils.Database, known: Collection[int]
    ) -> list[tuple[Job, StorageError | None]]:
        jobs: list[tuple[Job, StorageError | None]] = []
        for row in queries.unfinished_rows(db):
            if row["id"] in known:
                continue
            try:
                jobs.append((queries.job_of(self._pictures, row).without_pixels(), None))
            except StorageError as error:
                # What is made already needs no source any more.
                is_made = row["status"] == JobStatus.GENERATED
                fault = None if is_made else error.with_traceback(None)
                jobs += [(job, fault) for job in _readable([row])]
        return jobs

    async def images(self, job_id: int) -> list[StoredImage]:
        """Return the images of a job in their order, deleted ones too."""
        return await self._db.run(lambda db: queries.images(db, job_id))

    async def image(self, job_id: int, number: int) -> StoredImage | None:
        """Return image `number` of a job, counted from 1, unless there is none or it is deleted."""
        images = await self.images(job_id)
        return next((i for i in images if i.index == number - 1 and not i.deleted), None)

    async def parent(self, job: Job) -> StoredImage | None:
        """Return the image that a job came from, deleted or not; None for one from a prompt."""
        image_id = job.parent_image_id
        if image_id is None:
            return None
        return await self._db.run(lambda db: queries.image_by_id(db, image_id))

    async def image_by_pixels(self, pixels_sha256: str) -> StoredImage | None:
        """Return the oldest image with these pixels that is not deleted."""
        return await self._db.run(lambda db: queries.image_by_pixels(db, pixels_sha256))

    async def source_pixels(self, pixels_sha256: str) -> Pixels | None:
        """Return the pixels with this hash, if an image or a source with them is kept.

        Raises:
            PictureMissing: it is kept, but its file is gone or damaged.
        """
        return await self._db.run(
            lambda db: queries.source_pixels(db, self._pictures, pixels_sha256)
        )

    async def read(self, image: StoredImage) -> bytes:
        """Return the PNG file of an image, byte for byte as it was stored.

        Raises:
            PictureMissing: the file is gone or damaged.
        """
        return await self._db.run(lambda _: self._pictures.read(image.sha256))

    async def delete(self, job_id: int, by: Removal | None = None) -> bool:
        """Delete a job's images and take it out of the history; cancel it if it is unfinished.

        Of the job itself it stays known that it was deleted, by whom, and what its message needs
        to be removed. Files that nothing else refers to are removed, now or, where that fails,
        with those of the next job that is deleted, or at the next start; their last bytes leave
        the database a little later: see `storage.erasing`. Returns False when there is no such
        job or it is deleted already.
        """
        return await self.delete_all([job_id], by) == 1

    async def delete_all(
        self,
        job_ids: Sequence[int],
        by: Removal | None = None,
        *,
        without_messages: bool = False,
    ) -> int:
        """Delete several jobs as `delete` does, in one transaction; return how many there were.

        `without_messages` says that their messages are gone.
        """

        def forget(db: sqlite_utils.Database) -> int:
            count = sum(erasing.forget(db, job_id, by) for job_id in job_ids)
            if without_messages:
                for job_id in job_ids:
                    erasing.forget_message(db, job_id)
            return count

        count = await self._db.run(forget)
        await self._remove_files()
        self._eraser.want()
        return count

    async def _remove_files(self) -> None:
        # In a transaction of its own: a rollback brings rows back, but no files. The rows say
        # already that the files go, so an error here is for the operator and not for a member.
        try:
            await self._db.run(lambda db: keeping.remove_marked_files(db, self._pictures))
        except StorageError as error:
            log.error("The files of deleted pictures are to be removed later. %s", error)

    async def history(self, user_id: int, query: str, limit: int) -> list[HistoryEntry]:
        """Return at most `limit` of somebody's jobs with images, the newest first.

        Their prompts have every word of `query`, or a word that begins with it; a number also
        finds the job of that number, and a query without any word finds all.
        """
        # One at a time for each, so that a member who sends many delays nobody else.
        async with self._turn(user_id):
            return await self._db.read(lambda db: queries.history(db, user_id, query, limit))

    def _turn(self, user_id: int) -> asyncio.Lock:
        # It is kept as long as somebody holds it or waits for it.
        return self._searching.setdefault(user_id, asyncio.Lock())

    async def counts(self) -> Mapping[JobStatus, int]:
        """Return how many jobs that are not deleted stand at each status."""
        return await self._db.read(queries.counts)


def _readable(rows: Iterable[Row]) -> list[Job]:
    """Return the jobs of rows, without their sources; one that cannot be read stops no other."""
    jobs = list[Job]()
    for row in rows:
        try:
            jobs.append(records.job_from_row(row, None))
        except JobUnreadable as error:
            log.error("%s", error)
    return jobs


def _without_source(row: Row | None) -> Job | None:
    return None if row is None else records.job_from_row(row, None)


def _fail(db: sqlite_utils.Database, job_id: int, error: str) -> bool:
    moved = queries.move(db, job_id, origins=UNFINISHED, to=JobStatus.FAILED, error=error)
    return moved and erasing.release_source(db, job_id)
