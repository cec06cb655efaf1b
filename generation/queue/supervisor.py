"""What happens to the jobs and to the engine after a failure: a state machine without side effects.

A failure does not say which job caused it, or whether the engine itself is broken. So jobs that
failed together run again, each alone. A job that fails alone ends with an error. If the engine is
lost, it is replaced; a job that loses the engine again, alone, is set aside. If failures go on and
no picture is made, the engine is replaced, and in the end given up.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

# A job that was in the call each time the engine was lost, the last time alone, is set aside after
# so many losses.
JOB_LOSSES: Final = 2
# After so many lost engines in a row, the next engine would not do better.
ENGINE_LOSSES: Final = 3
# After so many jobs in a row that were set aside, the jobs are hardly the cause.
JOBS_SET_ASIDE: Final = 5
# After so many jobs in a row that failed alone, another engine may do better.
JOB_FAILURES: Final = 3

J = TypeVar("J", bound=Hashable)


class EngineAction(Enum):
    """What happens to the engine."""

    KEEP = auto()
    REPLACE = auto()
    GIVE_UP = auto()


@dataclass(frozen=True, slots=True)
class Decision(Generic[J]):
    """What happens to the jobs and to the engine.

    Jobs in `fail` end with the error that they raised, and jobs in `set_aside` end as a danger to
    the engine. Jobs in `run_alone` and `run_again` restart from their first step, those in
    `run_alone` with no other job beside them.
    """

    fail: tuple[J, ...] = ()
    set_aside: tuple[J, ...] = ()
    run_alone: tuple[J, ...] = ()
    run_again: tuple[J, ...] = ()
    engine: EngineAction = EngineAction.KEEP


class Supervisor(Generic[J]):
    """Counts failures since the last picture, and decides what happens after each failure.

    A step without an error resets no count. Decoding may be the call that fails, and on a GPU a
    step is only launched.
    """

    def __init__(self) -> None:
        self._engine_losses = 0
        self._jobs_set_aside = 0
        self._job_failures = 0
        self._losses_of_job: WeakKeyDictionary[J, int] = WeakKeyDictionary()

    def picture_made(self) -> None:
        """Note that the engine works: start all counts but those of the jobs again."""
        self._engine_losses = self._jobs_set_aside = self._job_failures = 0

    def call_failed(self, jobs: Sequence[J], others: Sequence[J]) -> Decision[J]:
        """Decide after a call for `jobs` raised an error; `others` also run on the engine."""
        if len(jobs) > 1:
            return Decision(run_alone=tuple(jobs))
        self._job_failures += 1
        if self._job_failures < JOB_FAILURES:
            return Decision(fail=tuple(jobs))
        self._job_failures = 0
        return self.engine_lost(jobs, others)

    def engine_lost(self, suspects: Sequence[J], others: Sequence[J]) -> Decision[J]:
        """Decide after the engine was lost in a call for `suspects`; `others` also ran on it."""
        for job in suspects:
            self._losses_of_job[job] = self._losses_of_job.get(job, 0) + 1
        guilty = self._guilty(suspects)
        if guilty:
            self._engine_losses = 0
            self._jobs_set_aside += 1
        else:
            self._engine_losses += 1
        return Decision(
            set_aside=guilty,
            run_alone=() if guilty else tuple(suspects),
            run_again=tuple(others),
            engine=EngineAction.GIVE_UP if self._is_hopeless() else EngineAction.REPLACE,
        )

    def _guilty(self, suspects: Sequence[J]) -> tuple[J, ...]:
        if len(suspects) == 1 and self._losses_of_job[suspects[0]] >= JOB_LOSSES:
            return tuple(suspects)
        return ()

    def _is_hopeless(self) -> bool:
        return self._engine_losses >= ENGINE_LOSSES or self._jobs_set_aside >= JOBS_SET_ASIDE
