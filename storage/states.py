"""The states of a job and the allowed moves: one table for storage and bot."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class JobStatus(enum.StrEnum):
    """The state of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    GENERATED = "generated"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES: Final[Mapping[JobStatus, tuple[JobStatus, ...]]] = {
    JobStatus.QUEUED: (JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED),
    # To running again: one more attempt. To queued: the bot stopped during the attempt.
    JobStatus.RUNNING: (
        JobStatus.QUEUED,
        JobStatus.RUNNING,
        JobStatus.GENERATED,
        JobStatus.FAILED,
        JobStatus.CANCELLED,
    ),
    JobStatus.GENERATED: (JobStatus.DELIVERED, JobStatus.FAILED, JobStatus.CANCELLED),
    JobStatus.DELIVERED: (),
    JobStatus.FAILED: (),
    JobStatus.CANCELLED: (),
}
"""Where a job may move from each state."""

UNFINISHED: Final = tuple(status for status, moves in MOVES.items() if moves)
"""The states that a job can leave."""
PENDING: Final = (JobStatus.QUEUED, JobStatus.RUNNING)
"""The states of a job whose pictures are not made yet."""


def origins(target: JobStatus) -> tuple[JobStatus, ...]:
    """Return the states from which a job may move to `target`."""
    return tuple(status for status, moves in MOVES.items() if target in moves)
