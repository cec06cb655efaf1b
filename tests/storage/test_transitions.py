from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.jobs import JobStore
from storage.states import JobStatus

from .inspection import history, open_jobs, unfinished
from .samples import finished, new_job, request

UNFINISHED = {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.GENERATED}
# The ids of some jobs, existing or not. The jobs share a few pictures.
jobs = st.integers(1, 6)


@dataclass
class Expected:
    seed: int
    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    message_id: int | None = None
    error: str | None = None
    images: int = 0
    deleted: bool = False


class Jobs(RuleBasedStateMachine):
    """Compares the store with a model in a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, Expected] = {}
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.open()

    def open(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        opening = self.stack.enter_async_context(open_jobs(Path(self.folder.name)))
        self.store: JobStore = self.runner.run(opening)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    def moved(self, job_id: int, origins: set[JobStatus], to: JobStatus) -> bool:
        job = self.model.get(job_id)
        if job is None or job.deleted or job.status not in origins:
            return False
        job.status = to
        return True

    @rule(seed=st.integers(0, 1))
    def add(self, seed: int) -> None:
        job = self.runner.run(self.store.add(new_job(request=request(seed=seed, count=2))))
        self.model[job.id] = Expected(seed)

    @rule(job_id=jobs)
    def start(self, job_id: int) -> None:
        begins = self.moved(job_id, {JobStatus.QUEUED, JobStatus.RUNNING}, JobStatus.RUNNING)
        if begins:
            self.model[job_id].attempts += 1
        assert self.runner.run(self.store.start(job_id)) is begins

    @rule(job_id=jobs)
    def requeue(self, job_id: int) -> None:
        requeues = self.moved(job_id, {JobStatus.RUNNING}, JobStatus.QUEUED)
        if requeues:
            self.model[job_id].attempts -= 1
        assert self.runner.run(self.store.requeue(job_id)) is requeues

    @rule(job_id=jobs)
    def complete(self, job_id: int) -> None:
        completes = self.moved(job_id, {JobStatus.RUNNING}, JobStatus.GENERATED)
        seed = 0
        if completes:
            self.model[job_id].images = 2
            seed = self.model[job_id].seed
        images = finished(request(seed=seed, count=2))
        assert self.runner.run(self.store.complete(job_id, images)) is completes

    @rule(job_id=jobs, message_id=st.integers(1, 2**62))
    def deliver(self, job_id: int, message_id: int) -> None:
        delivers = self.moved(job_id, {JobStatus.GENERATED}, JobStatus.DELIVERED)
        if delivers:
            self.model[job_id].message_id = message_id
        assert self.runner.run(self.store.delivered(job_id, message_id)) is delivers

    @rule(job_id=jobs, error=st.text(st.characters(codec="utf-8"), max_size=5))
    def fail(self, job_id: int, error: str) -> None:
        fails = self.moved(job_id, UNFINISHED, JobStatus.FAILED)
        if fails:
            self.model[job_id].error = error
        assert self.runner.run(self.store.fail(job_id, error)) is fails

    @rule(job_id=jobs)
    def cancel(self, job_id: int) -> None:
        cancels = self.moved(job_id, UNFINISHED, JobStatus.CANCELLED)
        assert self.runner.run(self.store.cancel(job_id)) is cancels

    @rule(job_id=jobs)
    def delete(self, job_id: int) -> None:
        job = self.model.get(job_id)
        deletes = job is not None and not job.deleted
        if job is not None:
            self.moved(job_id, UNFINISHED, JobStatus.CANCELLED)
            # An error may quote the prompt, so a deletion clears it.
            job.deleted, job.error = True, None
        assert self.runner.run(self.store.delete(job_id)) is deletes

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.stack.aclose())
        self.open()

    @invariant()
    def agree(self) -> None:
        self.runner.run(self._agree())

    async def _agree(self) -> None:
        for job_id, expected in self.model.items():
            job = await self.store.get(job_id)
            assert job is not None
            images = await self.store.images(job_id)
            found = (job.status, job.attempts, job.message_id, job.error, job.deleted)
            assert found == (
                expected.status,
                expected.attempts,
                expected.message_id,
                expected.error,
                expected.deleted,
            )
            assert [image.index for image in images] == list(range(expected.images))
            for image in images:
                assert image.deleted is expected.deleted
                if not image.deleted:
                    await self.store.read(image)
        assert [job.id for job in await unfinished(self.store)] == [
            job_id
            for job_id, job in self.model.items()
            if job.status in UNFINISHED and not job.deleted
        ]
        shown = {JobStatus.GENERATED, JobStatus.DELIVERED}
        assert [entry.job_id for entry in await history(self.store, 1, "rabbit", 99)] == [
            job_id
            for job_id, job in reversed(self.model.items())
            if job.status in shown and not job.deleted
        ]


TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
