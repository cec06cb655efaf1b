"""The jobs that the engine thread holds: their images, and which of them are next."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic

from ..errors import EngineLost, GenerationError
from ..timing import Measured
from ..values.events import Progress
from ..values.recipe import GeneratedImage
from ..workers.protocol import EngineLike, I
from .tickets import Ticket
from .turns import FairSizes

log = logging.getLogger(__name__)

_Kind = tuple[str | None, int, int]


@dataclass(slots=True)
class RunningJob(Generic[I]):
    """The images of a job on the engine, and the pictures that are finished, by image number."""

    images: list[I]
    pictures: dict[int, GeneratedImage] = field(default_factory=dict)
    previewed: float = 0.0

    @property
    def failure(self) -> GenerationError | None:
        """Return the error of the first image that failed."""
        return next((image.failure for image in self.images if image.failure), None)

    @property
    def unfinished(self) -> dict[int, I]:
        """Return the images without a picture, by number."""
        return {n: image for n, image in enumerate(self.images) if n not in self.pictures}

    @property
    def is_denoised(self) -> bool:
        """Return whether all steps are taken, so that only decoding is left."""
        return all(image.done for image in self.unfinished.values())

    def progress(
        self, engine: EngineLike[I], preview_seconds: float | None, job_id: int
    ) -> Progress:
        """Return the progress, with a preview if the last one is so many seconds old.

        Raises:
            EngineLost: the engine is lost.
        """
        image = next(iter(self.unfinished.values()))
        progress, now = image.progress, time.monotonic()
        if preview_seconds is None or now - self.previewed < preview_seconds:
            return progress
        self.previewed = now
        try:
            return Progress(progress.step, progress.steps, preview=engine.preview(image))
        except EngineLost:
            raise
        except Exception:
            # The picture can still be made without a preview.
            log.exception("There is no preview of job %s", job_id)
            return progress

    @property
    def ordered_pictures(self) -> list[GeneratedImage]:
        """Return the pictures in the order of the images."""
        return [self.pictures[number] for number in sorted(self.pictures)]


@dataclass(frozen=True, slots=True)
class Decoding(Generic[I]):
    """One image to decode: image `number` of a job."""

    ticket: Ticket
    number: int
    image: I


class RunningJobs(Generic[I]):
    """The jobs on the engine, by ticket."""

    def __init__(self) -> None:
        self._jobs: dict[Ticket, RunningJob[I]] = {}
        self.coming: list[Ticket] = []
        """Jobs that the engine may not have begun yet."""
        self._sizes: FairSizes[_Kind] = FairSizes()
        # How many pixels share a decoder call.
        self._decoded_pixels = 0

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._jobs))

    def __getitem__(self, ticket: Ticket) -> RunningJob[I]:
        return self._jobs[ticket]

    @property
    def have_work(self) -> bool:
        """Return whether a job can take a step or be decoded."""
        return any(ticket.active for ticket in self._jobs) or bool(self.next_decoding())

    def use(self, measured: Measured) -> None:
        """Set how many images share a decoder call."""
        self._decoded_pixels = max(measured.decode_seconds) * measured.pixels

    def add(self, ticket: Ticket, images: list[I]) -> None:
        """Add a job at its first step."""
        self._jobs[ticket] = RunningJob(images)

    def remove(self, ticket: Ticket) -> None:
        """Remove a job, if it is there."""
        self._jobs.pop(ticket, None)

    def clear(self) -> None:
        """Remove all jobs."""
        self._jobs.clear()

    def others(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Return the jobs that are not among `tickets`, those that are coming included."""
        coming = [ticket for ticket in self.coming if not ticket.images.done()]
        return [t for t in dict.fromkeys((*self._jobs, *coming)) if t not in tickets]

    def of_model(self, model: str | None) -> list[Ticket]:
        """Return the jobs for one model."""
        return [ticket for ticket in self._jobs if ticket.model == model]

    def next_step(self) -> list[Ticket]:
        """Return the active jobs of one model and size, which take the next step together."""
        groups: dict[_Kind, list[Ticket]] = {}
        for ticket, job in self._jobs.items():
            if ticket.active and not job.is_denoised:
                groups.setdefault(_kind(ticket), []).append(ticket)
        if not groups:
            return []
        loads = {kind: [ticket.load for ticket in group] for kind, group in groups.items()}
        return groups[self._sizes.choose(loads)]

    def next_decoding(self) -> list[Decoding[I]]:
        """Return denoised images of one model and size, as many as share a decoder call."""
        ready = list[Decoding[I]]()
        most = 1
        for ticket, job in self._jobs.items():
            is_same_kind = not ready or _kind(ready[0].ticket) == _kind(ticket)
            if is_same_kind and job.is_denoised:
                ready += [Decoding(ticket, n, image) for n, image in job.unfinished.items()]
                _, width, height = _kind(ticket)
                most = max(1, self._decoded_pixels // (width * height))
                if len(ready) >= most:
                    break
        return ready[:most]


def by_model(tickets: Sequence[Ticket]) -> list[list[Ticket]]:
    """Return the jobs of each model, in the order of their first jobs."""
    groups: dict[str | None, list[Ticket]] = {}
    for ticket in tickets:
        groups.setdefault(ticket.model, []).append(ticket)
    return list(groups.values())


def _kind(ticket: Ticket) -> _Kind:
    """Return the model, width and height: only jobs that have them in common share a call."""
    return ticket.model, ticket.request.width, ticket.request.height
