"""The engine thread: takes all active jobs forward together, one step at a time.

It decides nothing about order. It is handed tickets, steps those that are active, and reports
what happened; an engine that breaks is replaced by a new one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol

from ..errors import EngineFailed, EngineLost, GenerationError, SetAside, brief
from ..timing import Measured
from ..values.events import Progress
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest
from ..workers.protocol import EngineLike, I
from .tickets import JobCancelled, Ticket
from .turns import FairSizes

log = logging.getLogger(__name__)

_BREAKS: Final = 2
# So many engines in a row without a picture, and no job to blame: a new one will not do better.
_LOSSES: Final = 3
# So many jobs in a row that fail on it, and none that is made: perhaps a new one does better.
_FAILURES: Final = 3
# So many jobs in a row that seem to break it: it is hardly the jobs.
_SET_ASIDE: Final = 5
# Seconds before each attempt to load another: the memory of the last one may take a while to go.
_PAUSES: Final = (0, 2, 10)


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step of several jobs: where each is now, and how long it took for their whole load."""

    news: list[tuple[Ticket, Progress]]
    load: float
    seconds: float


class Reports(Protocol):
    """What the engine thread tells; see `generation.queue.queue`."""

    def ready(self, measured: Measured) -> None:
        """Take note that an engine is loaded."""

    def died(self, error: GenerationError) -> None:
        """Take note that there is no engine and will be none."""

    def lost(self) -> None:
        """Take note that there is no engine, and that another is tried."""

    def begun(self, tickets: list[Ticket]) -> None:
        """Take note that the engine has taken these jobs up."""

    def stepped(self, step: Stepped) -> None:
        """Take note of a step."""

    def over(self, ticket: Ticket, outcome: list[GeneratedImage] | Exception) -> None:
        """Take note that a job is finished, or will not be."""

    def again(self, ticket: Ticket, *, alone: bool) -> None:
        """Have a job start over, with nobody beside it if it may be what broke the engine."""


@dataclass(slots=True)
class _Job(Generic[I]):
    images: list[I]
    pictures: dict[int, GeneratedImage] = field(default_factory=dict)
    previewed: float = 0.0

    @property
    def failure(self) -> GenerationError | None:
        return next((image.failure for image in self.images if image.failure), None)

    @property
    def unfinished(self) -> list[I]:
        return [image for number, image in enumerate(self.images) if number not in self.pictures]


class Worker(Generic[I]):
    """Runs `work` in the engine thread until `stop` is called."""

    def __init__(
        self,
        make_engine: Callable[[], EngineLike[I]],
        reports: Reports,
        *,
        preview_seconds: float | None,
    ) -> None:
        self._make_engine = make_engine
        self._reports = reports
        self._preview_seconds = preview_seconds
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._engine: EngineLike[I] | None = None
        self._jobs: dict[Ticket, _Job[I]] = {}
        # Whose images the engine has in hand: one of them did it if it is lost now.
        self._in_call: list[Ticket] = []
        self._sizes: FairSizes[tuple[int, int]] = FairSizes()
        # Since the last picture. A step proves nothing: decoding may be what breaks, and on a GPU
        # a step is only launched.
        self._losses = 0
        self._set_aside = 0
        self._failures = 0
        # In pixels.
        self._decoded_together = 0

    def give(self, ticket: Ticket | None) -> None:
        """Hand over a job that is to run, or None where a known one has changed."""
        self._inbox.put(ticket)

    def stop(self) -> None:
        """End after the step that the engine is at, or sooner if it can be broken off."""
        self._stopping.set()
        self._inbox.put(None)
        engine = self._engine
        if engine is not None:
            engine.close()

    def work(self) -> None:
        """Load the engine and serve jobs until `stop`; the body of the engine thread."""
        try:
            if (failure := self._load()) is not None:
                self._died(failure)
                return
            while not self._stopping.is_set():
                self._turn()
        except Exception as error:
            log.exception("The engine thread ends")
            self._reports.died(
                EngineFailed(f"The engine thread broke ({brief(error)}); see the log.")
            )
        finally:
            self._jobs.clear()
            self._discard_engine()

    def _load(self) -> GenerationError | None:
        """Make an engine; return why there is none, if so."""
        try:
            self._engine = self._make_engine()
            if self._stopping.is_set():
                return None
            measured = self._engine.measured()
        except GenerationError as error:
            failure = error
        except Exception as error:
            log.exception("The engine could not be loaded")
            failure = EngineFailed.at_load(error)
        else:
            self._decoded_together = max(measured.decode_seconds) * measured.pixels
            self._reports.ready(measured)
            return None
        self._discard_engine()
        return failure

    def _died(self, failure: GenerationError) -> None:
        # `stop` has broken it off.
        if not self._stopping.is_set():
            self._reports.died(failure)

    def _discard_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _turn(self) -> None:
        """Take in what is new, take one step of whose turn it is, and finish what is done."""
        try:
            new = self._take_in()
            if self._stopping.is_set() or self._engine is None:
                return
            self._without_cancelled(list(self._jobs))
            self._begin(self._engine, self._without_cancelled(new))
            self._step(self._engine, self._whose_turn())
            if not self._stopping.is_set():
                self._finish(self._engine)
        except EngineLost as error:
            self._replace(error)
        self._in_call = []

    def _take_in(self) -> list[Ticket]:
        """Return the tickets that came, waiting for one if there is nothing to do."""
        new = list[Ticket]()
        idle = not any(ticket.active for ticket in self._jobs) and not self._ready_to_decode()
        if idle and self._inbox.empty() and self._engine is not None:
            self._engine.release_unused()
        while idle or not self._inbox.empty():
            ticket = self._inbox.get()
            idle = False
            if ticket is not None:
                new.append(ticket)
        return new

    def _without_cancelled(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """End those that are cancelled and return the others.

        Each is asked once: the event loop may cancel one at any time, and a ticket that is neither
        ended nor begun would hold its room for ever.
        """
        others = list[Ticket]()
        for ticket in tickets:
            if ticket.cancelled.is_set():
                self._over(ticket, JobCancelled())
            else:
                others.append(ticket)
        return others

    def _begin(self, engine: EngineLike[I], tickets: Sequence[Ticket]) -> None:
        requests = self._read_sources(tickets)
        if not requests:
            return
        tickets = list(requests)
        self._in_call = tickets
        try:
            begun = engine.begin(list(requests.values()))
        except EngineLost:
            raise
        except Exception as error:
            self._broke(tickets, error)
            return
        started = []
        for ticket, images in zip(tickets, begun, strict=True):
            if isinstance(images, GenerationError):
                self._over(ticket, images)
            else:
                self._jobs[ticket] = _Job(images)
                started.append(ticket)
        self._reports.begun(started)
        self._reports.stepped(
            Stepped([(t, self._jobs[t].images[0].progress) for t in started], 0, 0)
        )

    def _read_sources(self, tickets: Sequence[Ticket]) -> dict[Ticket, GenerationRequest]:
        """Return whole requests; a job whose source cannot be read ends with the reason."""
        requests = dict[Ticket, GenerationRequest]()
        for ticket in tickets:
            try:
                requests[ticket] = ticket.request_with_pixels()
            except Exception as error:
                self._over(ticket, error)
        return requests

    def _whose_turn(self) -> list[Ticket]:
        """Return the active jobs that take the next step together: those of one size."""
        groups: dict[tuple[int, int], list[Ticket]] = {}
        for ticket, job in self._jobs.items():
            if ticket.active and not all(image.done for image in job.unfinished):
                groups.setdefault(_size(ticket), []).append(ticket)
        if not groups:
            return []
        loads = {size: [ticket.load for ticket in group] for size, group in groups.items()}
        return groups[self._sizes.choose(loads)]

    def _step(self, engine: EngineLike[I], tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        self._in_call = list(tickets)
        images = [image for ticket in tickets for image in self._jobs[ticket].unfinished]
        load = sum(ticket.load for ticket in tickets)
        start = time.perf_counter()
        try:
            engine.step(images)
        except EngineLost:
            raise
        except Exception as error:
            self._broke(tickets, error)
            return
        seconds = time.perf_counter() - start
        news = [(ticket, self._news(engine, ticket)) for ticket in tickets]
        self._reports.stepped(Stepped(news, load, seconds))

    def _news(self, engine: EngineLike[I], ticket: Ticket) -> Progress:
        """Return how far a job is, with a look at it when one is due."""
        job = self._jobs[ticket]
        image = job.unfinished[0]
        progress = image.progress
        now = time.monotonic()
        if self._preview_seconds is None or now - job.previewed < self._preview_seconds:
            return progress
        job.previewed = now
        try:
            return Progress(progress.step, progress.steps, preview=engine.preview(image))
        except EngineLost:
            raise
        except Exception:
            # A picture is worth more than a look at it.
            log.exception("There is no preview of job %s", ticket.job_id)
            return progress

    def _finish(self, engine: EngineLike[I]) -> None:
        """Decode pictures of jobs that are through, and end the jobs that are complete.

        No more than share a decoder call, so that nobody's next step waits for more than that;
        a job of several pictures may take several turns.
        """
        for ticket, job in list(self._jobs.items()):
            if (failure := job.failure) is not None:
                self._over(ticket, failure)
        ready = self._ready_to_decode()
        if not ready:
            return
        tickets = list(dict.fromkeys(ticket for ticket, _ in ready))
        self._in_call = tickets
        images = [image for _, image in ready]
        try:
            pictures = engine.finish(images)
        except EngineLost:
            raise
        except Exception as error:
            self._broke(tickets, error)
            return
        made = dict(zip(map(id, images), pictures, strict=True))
        for ticket in tickets:
            self._keep(ticket, made)

    def _ready_to_decode(self) -> list[tuple[Ticket, I]]:
        """Return images of one size of jobs that are through, as many as share a decoder call."""
        ready = list[tuple[Ticket, I]]()
        most = 1
        for ticket, job in self._jobs.items():
            is_alike = not ready or _size(ready[0][0]) == _size(ticket)
            if is_alike and all(image.done for image in job.unfinished):
                ready += [(ticket, image) for image in job.unfinished]
                width, height = _size(ticket)
                most = max(1, self._decoded_together // (width * height))
                if len(ready) >= most:
                    break
        return ready[:most]

    def _keep(self, ticket: Ticket, made: dict[int, GeneratedImage | None]) -> None:
        job = self._jobs[ticket]
        for number, image in enumerate(job.images):
            picture = made.get(id(image))
            if picture is not None:
                job.pictures[number] = picture
                self._losses = self._set_aside = self._failures = 0
        if (failure := job.failure) is not None:
            self._over(ticket, failure)
        elif not job.unfinished:
            self._over(ticket, [job.pictures[number] for number in range(len(job.images))])

    def _over(self, ticket: Ticket, outcome: list[GeneratedImage] | Exception) -> None:
        self._jobs.pop(ticket, None)
        if isinstance(outcome, Exception):
            # Its traceback holds the latents, and anyone who has the ticket holds the error.
            outcome = outcome.with_traceback(None)
        self._reports.over(ticket, outcome)

    def _broke(self, tickets: Sequence[Ticket], error: Exception) -> None:
        """Fail the job that broke; if it was one of several, find out which, one by one.

        Raises:
            EngineLost: nothing but failures come of this engine any more.
        """
        jobs = ", ".join(str(ticket.job_id) for ticket in tickets)
        log.error("The engine failed on job %s", jobs, exc_info=error)
        if len(tickets) == 1:
            self._failures += 1
            if self._failures >= _FAILURES:
                self._failures = 0
                raise EngineLost("The engine failed on several pictures in a row.")
            self._over(
                tickets[0],
                EngineFailed(
                    f"The engine failed on this picture ({brief(error)}); try other settings, or "
                    "ask the operator to look at the log."
                ),
            )
            return
        for ticket in tickets:
            self._jobs.pop(ticket, None)
            self._reports.again(ticket, alone=True)

    def _replace(self, error: EngineLost) -> None:
        """Start a new engine, and all jobs over; those that were in the call one by one."""
        if self._stopping.is_set():
            return
        log.error("%s Another is started", error)
        # First, so that nobody is told a place or a time of the engine that is gone.
        self._reports.lost()
        suspects = self._in_call
        others = [ticket for ticket in self._jobs if ticket not in suspects]
        self._jobs.clear()
        self._blame(suspects)
        for ticket in others:
            self._reports.again(ticket, alone=False)
        self._discard_engine()
        if self._losses >= _LOSSES or self._set_aside >= _SET_ASIDE:
            self._died(
                EngineFailed(
                    "The engine broke several times in a row without making a picture; look at the "
                    "log, then run imagine-bot doctor."
                )
            )
        else:
            self._reload()

    def _blame(self, suspects: Sequence[Ticket]) -> None:
        """Set the job aside that broke the engine again, alone; have others start over, alone."""
        for ticket in suspects:
            ticket.breaks += 1
        if len(suspects) == 1 and suspects[0].breaks >= _BREAKS:
            log.error("Job %s broke the engine %s times", suspects[0].job_id, suspects[0].breaks)
            self._over(suspects[0], SetAside())
            self._losses = 0
            self._set_aside += 1
            return
        self._losses += 1
        for ticket in suspects:
            self._reports.again(ticket, alone=True)

    def _reload(self) -> None:
        for pause in _PAUSES:
            if self._stopping.wait(pause):
                return
            failure = self._load()
            if failure is None:
                return
            log.error("There is no new engine: %s", failure)
            if pause == _PAUSES[-1]:
                self._died(failure)


def _size(ticket: Ticket) -> tuple[int, int]:
    return ticket.request.width, ticket.request.height
