"""The table of moves, and the moves that the database allows."""

from __future__ import annotations

from itertools import product

import pytest

from storage.jobs import JobStore
from storage.queries import jobs as queries
from storage.states import MOVES, PENDING, UNFINISHED, JobStatus, origins

from .samples import new_job


def reachable(start: JobStatus) -> set[JobStatus]:
    """Return every state that a job can reach from `start`, including `start`."""
    found, left = {start}, [start]
    while left:
        new = set(MOVES[left.pop()]) - found
        found |= new
        left += new
    return found


def test_a_new_job_can_reach_every_state() -> None:
    assert reachable(JobStatus.QUEUED) == set(JobStatus) == set(MOVES)


def test_delivered_failed_and_cancelled_are_final() -> None:
    final = {JobStatus.DELIVERED, JobStatus.FAILED, JobStatus.CANCELLED}
    assert set(JobStatus) - set(UNFINISHED) == final
    assert all(reachable(status) == {status} for status in final)


def test_every_unfinished_job_can_fail_or_be_cancelled() -> None:
    assert origins(JobStatus.FAILED) == origins(JobStatus.CANCELLED) == UNFINISHED


def test_pictures_can_still_be_made_of_pending_jobs_and_of_no_others() -> None:
    others = set(JobStatus) - {JobStatus.GENERATED}
    assert set(PENDING) == {s for s in others if JobStatus.GENERATED in reachable(s)}


@pytest.mark.parametrize(("origin", "target"), [*product(JobStatus, JobStatus)])
async def test_the_database_makes_exactly_the_moves_of_the_table(
    store: JobStore, origin: JobStatus, target: JobStatus
) -> None:
    job = await store.add(new_job())
    put = "UPDATE jobs SET status = ? WHERE id = ?"
    await store._db.run(lambda db: db.execute(put, (origin, job.id)) and None)
    moved = await store._db.run(lambda db: queries.move(db, job.id, to=target))
    stored = await store.record(job.id)
    assert stored is not None
    assert moved is (target in MOVES[origin])
    assert stored.status is (target if moved else origin)
