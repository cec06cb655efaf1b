"""Resuming jobs: after a restart, and when the disk takes pictures again."""

from __future__ import annotations

import asyncio
import enum
import logging
from dataclasses import dataclass
from functools import partial
from typing import Final

from generation.errors import SetAside
from generation.queue.tickets import QueueClosed
from generation.values.events import Interruption
from storage.errors import PictureMissing, StorageError
from storage.records import Job
from storage.states import JobStatus

from .courier_protocol import Courier, MessageGone, Undeliverable
from .disk import DiskGuard
from .guarded import GuardedStore
from .lifecycle import Lifecycle
from .registry import JobUnderWay, Registry
from .reports import Reporter
from .tasks import Background

log = logging.getLogger(__name__)

# The bot ended so often in the middle of a job that the job may be the cause. From then on the job
# runs alone, and in the end it is not run any more. A machine that is switched off at bad moments
# looks the same, so the limits are higher than an engine's two (`generation.queue.supervisor`).
_SUSPECT_ATTEMPTS: Final = 2
_MAX_ATTEMPTS: Final = 10


class Step(enum.Enum):
    """What a start of the bot does with a job from before."""

    RUN = "queue the job again"
    RUN_ALONE = "queue the job again, with no other job beside it on the engine"
    DELIVER = "deliver the stored pictures"
    REPORT_FAILURE = "report that the job failed"
    REPORT_CANCELLATION = "report that the job was cancelled"
    WAIT = "leave the job to the next start"


@dataclass(frozen=True, slots=True)
class Plan:
    """The step for one job; `failure` is the sentence to report, for a failed job."""

    step: Step
    failure: str = ""


def plan(job: Job, fault: StorageError | None) -> Plan:
    """Return what to do with a job; `fault` is the reason why its source cannot be read."""
    if (failure := _failure(job, fault)) is not None:
        return Plan(Step.REPORT_FAILURE, failure)
    if fault is not None:
        # The operator can make the source readable again.
        return Plan(Step.WAIT)
    if job.status is JobStatus.GENERATED:
        return Plan(Step.DELIVER)
    if job.status is JobStatus.CANCELLED:
        return Plan(Step.REPORT_CANCELLATION)
    is_suspect = job.status is JobStatus.RUNNING and job.attempts >= _SUSPECT_ATTEMPTS
    return Plan(Step.RUN_ALONE if is_suspect else Step.RUN)


def _failure(job: Job, fault: StorageError | None) -> str | None:
    if job.error is not None:
        # The job failed before the restart, and Discord did not answer the report.
        return job.error
    if job.status is JobStatus.RUNNING and job.attempts >= _MAX_ATTEMPTS:
        return str(SetAside())
    return str(fault) if isinstance(fault, PictureMissing) else None


class Recovery:
    """Resumes every job that was accepted and is neither delivered nor under way."""

    def __init__(
        self,
        *,
        store: GuardedStore,
        disk: DiskGuard,
        courier: Courier,
        reporter: Reporter,
        lifecycle: Lifecycle,
        registry: Registry,
        background: Background,
    ) -> None:
        self._store = store
        self._disk = disk
        self._courier = courier
        self._reporter = reporter
        self._lifecycle = lifecycle
        self._registry = registry
        self._background = background
        self._is_waiting_for_disk = False
        self.done = asyncio.Event()
        """Set once the jobs from before the start are resumed."""

    async def resume(self) -> int:
        """Resume all jobs that are not under way; return how many.

        Raises:
            StorageError: the database cannot be read, and no job is resumed.
        """
        # The order matters: a job that somebody removes or cancels meanwhile must not be read
        # twice. Nothing is awaited after the last read: a job from after the start could end by
        # then, and would look like a job from before.
        removed = await self._store.deleted_with_message()
        cancelled = await self._store.unreported_cancellations()
        unfinished = await self._store.unfinished(self._registry.ids())
        for job in removed:
            if job.message_id is not None and job.id not in self._registry:
                removing = self._reporter.remove_message(job, job.message_id)
                self._background.start(removing, f"remove the message of job {job.id}")
        count = 0
        for job, fault in [*unfinished, *((job, None) for job in cancelled)]:
            # Jobs from after the start are under way already.
            if job.id not in self._registry and self._resume_job(job, fault):
                self._background.start(self._find_message(job), f"find the message of job {job.id}")
                count += 1
        self.done.set()
        return count

    def _resume_job(self, job: Job, fault: StorageError | None) -> bool:
        """Start the task that brings a job to its end; return False if the job has to wait."""
        planned = plan(job, fault)
        if job.error is None and planned.step in (Step.REPORT_FAILURE, Step.WAIT):
            log.error("Job %s cannot be resumed: %s", job.id, planned.failure or fault)
        match planned.step:
            case Step.WAIT:
                return False
            case Step.REPORT_FAILURE:
                report = partial(self._reporter.report_failure, job, planned.failure)
                self._registry.start(JobUnderWay(job), report, f"report that job {job.id} failed")
            case Step.REPORT_CANCELLATION:
                report = partial(self._reporter.report_cancellation, job)
                name = f"report that job {job.id} is cancelled"
                self._registry.start(JobUnderWay(job), report, name)
            case Step.DELIVER:
                self._lifecycle.redeliver(job)
            case Step.RUN | Step.RUN_ALONE:
                # After the first resume, the bot was not restarted: the job waited for the disk.
                after: Interruption | None = None if self.done.is_set() else "bot"
                alone = planned.step is Step.RUN_ALONE
                self._lifecycle.enqueue(job, alone=alone, after=after)
        return True

    async def _find_message(self, job: Job) -> None:
        """Announce the message of a job from before a restart, or that there is no message."""
        message_id = job.message_id
        if message_id is None:
            try:
                message_id = await self._courier.find(job)
            except (MessageGone, Undeliverable) as error:
                log.warning("The message of job %s cannot be looked for: %s", job.id, error)
            except Exception:
                # A message that discord.py cannot read, for example, must not stop the job.
                log.exception("The message of job %s cannot be looked for", job.id)
        await self._reporter.announced(job, message_id)

    def resume_when_writable(self) -> None:
        """Start to wait for the disk, unless that is started already; then resume."""
        if not self._is_waiting_for_disk:
            self._is_waiting_for_disk = True
            self._background.start(self._resume_when_writable(), "resume jobs that wait for room")

    async def _resume_when_writable(self) -> None:
        while await self._disk.wait_until_writable():
            # A job that finds the disk full after this line is not seen by this resume.
            self._is_waiting_for_disk = False
            try:
                count = await self.resume()
            except QueueClosed:
                return
            except StorageError as error:
                log.warning("Jobs that wait for the disk cannot be resumed yet: %s", error)
                self._is_waiting_for_disk = True
            else:
                log.info("The disk can be written again: %s jobs are resumed", count)
                return
