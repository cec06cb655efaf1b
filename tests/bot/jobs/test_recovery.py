"""What a start does with each kind of job from before, as a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bot.jobs.recovery import Plan, Step, plan
from generation.errors import SetAside
from storage.errors import FolderUnusable, PictureDamaged, PictureMissing, StorageError
from storage.states import JobStatus

from ..ui.test_messages import JOB

MISSING, DAMAGED = PictureMissing("0" * 64), PictureDamaged("0" * 64)
UNREADABLE = FolderUnusable(Path("pictures"), "permission denied")

RUN, ALONE, DELIVER = Plan(Step.RUN), Plan(Step.RUN_ALONE), Plan(Step.DELIVER)
WAIT, CANCELLED = Plan(Step.WAIT), Plan(Step.REPORT_CANCELLATION)


def failed(error: str | Exception) -> Plan:
    return Plan(Step.REPORT_FAILURE, str(error))


@pytest.mark.parametrize(
    ("status", "attempts", "error", "fault", "expected"),
    [
        (JobStatus.QUEUED, 0, None, None, RUN),
        (JobStatus.QUEUED, 9, None, None, RUN),
        (JobStatus.QUEUED, 99, None, None, RUN),
        (JobStatus.RUNNING, 1, None, None, RUN),
        (JobStatus.RUNNING, 2, None, None, ALONE),
        (JobStatus.RUNNING, 9, None, None, ALONE),
        (JobStatus.RUNNING, 10, None, None, failed(SetAside())),
        (JobStatus.GENERATED, 10, None, None, DELIVER),
        (JobStatus.CANCELLED, 10, None, None, CANCELLED),
        # A failure that could not be reported.
        (JobStatus.QUEUED, 0, "It broke.", None, failed("It broke.")),
        (JobStatus.RUNNING, 10, "It broke.", None, failed("It broke.")),
        (JobStatus.RUNNING, 1, "It broke.", MISSING, failed("It broke.")),
        # A source that cannot be read.
        (JobStatus.QUEUED, 0, None, MISSING, failed(MISSING)),
        (JobStatus.RUNNING, 1, None, DAMAGED, failed(DAMAGED)),
        (JobStatus.QUEUED, 0, None, UNREADABLE, WAIT),
        (JobStatus.RUNNING, 9, None, UNREADABLE, WAIT),
        (JobStatus.RUNNING, 10, None, UNREADABLE, failed(SetAside())),
    ],
)
def test_each_job_from_before_has_its_step(
    status: JobStatus,
    attempts: int,
    error: str | None,
    fault: StorageError | None,
    expected: Plan,
) -> None:
    job = dataclasses.replace(JOB, status=status, attempts=attempts, error=error)
    assert plan(job, fault) == expected
