"""The whole service at work: how late the event loop is while the engine is busy."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from generation.errors import GenerationError
from generation.queue.queue import GenerationQueue
from generation.values.events import Event, Progress
from generation.values.request import GenerationRequest
from storage.folder.space import Space
from storage.opening import open_storage
from storage.records import Job, JobKind, NewJob, StoredImage

from ..delivery.files import attachments_of
from ..delivery.throttle import ProgressThrottle
from ..jobs.courier_protocol import Picture
from ..jobs.disk import DiskGuard
from ..jobs.service import ImagineService
from ..ui import attachments, messages
from .users import LoopLag


class _Mailbox:
    """The courier without Discord: it makes all that would be sent, and notes what is over."""

    def __init__(self, progress_seconds: float) -> None:
        self.over: asyncio.Queue[str | None] = asyncio.Queue()
        self._throttle = ProgressThrottle(self._edit, progress_seconds)

    async def close(self) -> None:
        await self._throttle.close()

    def progress(self, job: Job, message_id: int, event: Event) -> None:
        self._throttle.show(job, message_id, event)

    async def _edit(self, job: Job, _message_id: int, event: Event) -> bool:
        messages.waiting(job, event)
        if isinstance(event, Progress) and event.preview is not None:
            await asyncio.to_thread(attachments.preview, job, event.percent, event.preview)
        return True

    async def find(self, _job: Job) -> int | None:
        return None

    async def post(self, job: Job) -> int:
        return job.id

    async def deliver(
        self,
        job: Job,
        _message_id: int,
        read: Callable[[], Awaitable[Sequence[Picture]]],
        parent: StoredImage | None,
    ) -> None:
        await self._throttle.drop(job)
        pictures = await read()
        messages.finished(job, pictures[0].image.recipe, parent)
        await asyncio.to_thread(attachments_of, job, pictures)
        self.over.put_nowait(None)

    async def report_wait(self, job: Job, _message_id: int) -> None:
        self.over.put_nowait(messages.postponed(job))

    async def report_failure(self, _job: Job, _message_id: int, sentence: str) -> None:
        self.over.put_nowait(sentence)

    async def report_cancellation(self, job: Job, _message_id: int) -> None:
        self.over.put_nowait(messages.cancelled(job))

    async def remove(self, _job: Job, _message_id: int) -> None:
        """Do nothing: the benchmark removes no job."""


async def serve(
    queue: GenerationQueue[Any], requests: Sequence[GenerationRequest], *, progress_seconds: float
) -> LoopLag:
    """Return how late the event loop is while the service answers `requests`, one user each.

    Everything is done as in the bot, except sending: jobs are stored, queued and run; progress and
    previews are prepared; pictures are stored, read again and prepared.

    Raises:
        GenerationError: a job failed.
    """
    lag, mailbox = LoopLag(), _Mailbox(progress_seconds)
    with tempfile.TemporaryDirectory(prefix="imagine-bot-bench-") as folder:
        async with open_storage(Path(folder)) as storage:
            disk = DiskGuard(Space(storage.pictures_folder, 0))
            service = ImagineService(
                jobs=storage.jobs,
                joined_guilds=storage.joined_guilds,
                queue=queue,
                courier=mailbox,
                disk=disk,
            )
            watching = asyncio.create_task(lag.watch())
            try:
                for number, request in enumerate(requests):
                    order = NewJob(
                        kind=JobKind.IMAGINE,
                        user_id=number,
                        guild_id=1,
                        channel_id=number,
                        request=request,
                    )
                    job = await service.submit(order)
                    await service.announced(job, job.id)
                for _ in requests:
                    if (sentence := await mailbox.over.get()) is not None:
                        raise GenerationError(sentence)
            finally:
                watching.cancel()
                await service.close()
                await mailbox.close()
    return lag
