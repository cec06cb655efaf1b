"""The time of queue and storage for each picture, with an engine that takes no time."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from generation.errors import GenerationError
from generation.images.png import write_png
from generation.queue.admission import QueueLimits
from generation.queue.queue import GenerationQueue
from generation.timing import Measured
from generation.values.events import Progress
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest
from generation.workers.protocol import ModelLoad
from storage.opening import open_storage
from storage.records import JobKind, NewJob


@dataclass(slots=True, eq=False)
class _Image:
    request: GenerationRequest
    done: bool = False
    failure: GenerationError | None = None

    @property
    def progress(self) -> Progress:
        return Progress(int(self.done), 1)


class _Instant:
    """An engine that returns a picture that was made before."""

    def __init__(self, image: GeneratedImage) -> None:
        self._image = image

    def measured(self) -> Measured:
        pixels = self._image.pixels
        return Measured(
            pixels=pixels.width * pixels.height, step_seconds={16: 1e-6}, decode_seconds={1: 1e-6}
        )

    def load(self, model: str) -> ModelLoad:  # noqa: ARG002 - there is one model
        return ModelLoad(measured=self.measured(), failure=None, loaded=())

    def begin(self, requests: Sequence[GenerationRequest]) -> list[list[_Image] | GenerationError]:
        return [[_Image(request)] for request in requests]

    def step(self, images: Sequence[_Image]) -> None:
        for image in images:
            image.done = True

    def finish(self, images: Sequence[_Image]) -> list[GeneratedImage | None]:
        return [self._image for _ in images]

    def preview(self, image: _Image) -> Pixels | None:  # noqa: ARG002 - as the engine's
        return None

    def release_unused(self) -> None:
        pass

    def close(self) -> None:
        pass


async def overhead(image: GeneratedImage, *, count: int) -> float:
    """Return the seconds for each of `count` pictures, from the request to the stored file.

    Each job is committed, queued, started, encoded as a PNG, stored and marked as delivered.
    Eight users work at a time, on a real database with real files.
    """
    request = image.recipe.request(None)
    with tempfile.TemporaryDirectory(prefix="imagine-bot-bench-") as folder:
        async with (
            open_storage(Path(folder)) as storage,
            GenerationQueue(
                lambda: _Instant(image), limits_for=lambda _: QueueLimits(count), previews=False
            ) as queue,
        ):
            await queue.ready()
            jobs = storage.jobs

            async def one(number: int) -> None:
                order = NewJob(
                    kind=JobKind.IMAGINE, user_id=number, guild_id=1, channel_id=1, request=request
                )
                job = await jobs.add(order)
                ticket = queue.submit(job.id, request, lambda _: None)
                await ticket.started_or_ended()
                await jobs.start(job.id)
                files = [
                    (made, write_png(made.pixels, made.recipe)) for made in await ticket.images
                ]
                await jobs.complete(job.id, files)
                await jobs.delivered(job.id, job.id)

            start = time.perf_counter()
            for first in range(0, count, 8):
                await asyncio.gather(*(one(number) for number in range(first, first + 8)))
            return (time.perf_counter() - start) / count
