"""Custom ids of buttons. They hold only ids, so a button never expires: the rest is looked up.

rerun:TOKEN.JOB          🔁  the same recipe with a new seed
vary:TOKEN.JOB:NUMBER    🎲  a variation of picture NUMBER
remove:TOKEN.JOB         ❌  cancel it, or ask whether its pictures are to be deleted
delete:TOKEN.JOB             delete its message and pictures

TOKEN tells the job from one of the same number in another database (`storage.records.Job`). The
buttons of the first version are without it: they count below the job's own message only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from storage.records import Job

RERUN_EMOJI: Final = "🔁"
VARY_EMOJI: Final = "🎲"
REMOVE_EMOJI: Final = "❌"

# A person who may not use the command may not use the button that does the same.
RERUN_COMMAND: Final = "imagine"
VARY_COMMAND: Final = "vary"

RERUN_ID: Final = "rerun:{job}"
VARY_ID: Final = "vary:{job}:{number}"
REMOVE_ID: Final = "remove:{job}"
DELETE_ID: Final = "delete:{job}"
_JOB: Final = r"(?:(?P<token>[0-9a-f]{1,32})\.)?(?P<job>\d{1,19})"
RERUN_PATTERN: Final = rf"rerun:{_JOB}"
VARY_PATTERN: Final = rf"vary:{_JOB}:(?P<number>\d{{1,2}})"
REMOVE_PATTERN: Final = rf"remove:{_JOB}"
DELETE_PATTERN: Final = rf"delete:{_JOB}"


@dataclass(frozen=True, slots=True)
class JobKey:
    """Which job a button is of; `token` is None in one of the first version."""

    job_id: int
    token: str | None

    def __str__(self) -> str:
        return str(self.job_id) if self.token is None else f"{self.token}.{self.job_id}"

    @classmethod
    def of(cls, job: Job) -> JobKey:
        """Return the key of a job."""
        return cls(job.id, job.token or None)

    @classmethod
    def read(cls, match: re.Match[str]) -> JobKey:
        """Return the key in a custom id."""
        return cls(int(match["job"]), match["token"])


def remove_ids(job: Job) -> tuple[str, str]:
    """Return the custom ids of a job's ❌: today's, and that of the first version."""
    return REMOVE_ID.format(job=JobKey.of(job)), REMOVE_ID.format(job=job.id)
