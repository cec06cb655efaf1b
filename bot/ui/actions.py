"""The one table of what a button or a reaction does, and the custom ids of the buttons.

A custom id holds only ids, so a button never expires: everything else is looked up.

rerun:TOKEN.JOB          🔁  the same recipe with a new seed
vary:TOKEN.JOB:NUMBER    🎲  a variation of picture NUMBER
remove:TOKEN.JOB         ❌  cancel the job, or ask whether to delete its pictures
delete:TOKEN.JOB             delete the message and the pictures

TOKEN tells the job from one with the same number in another database (`storage.records.Job`). The
buttons of the first version have no TOKEN: they work below the job's own message only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from storage.records import Job, JobKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A row of the table.

    `name` starts the custom ids. `emoji` is on the button, and as a reaction does the same.
    `command` is the slash command that does the same, if that is one command for all jobs (see
    `command_for`). `kind` is the kind of the job that the action makes, if it makes one.
    `of_picture` says whether the action concerns one picture of the job, whose number the custom id
    then holds.
    """

    name: str
    emoji: str = ""
    label: str | None = None
    command: str | None = None
    kind: JobKind | None = None
    of_picture: bool = False

    def command_for(self, job: Job) -> str | None:
        """Return the slash command that does the same to `job`, or None if there is none.

        A person needs the right to use that command.
        """
        return command_of(job) if self.kind is JobKind.RERUN else self.command


def command_of(job: Job) -> str:
    """Return the slash command that makes jobs such as `job`, which may itself be a rerun."""
    if job.kind is not JobKind.RERUN:
        # The other kinds have the names of their commands.
        return job.kind.value
    if job.request.references:
        return "edit"
    if job.has_upload or job.parent_image_id is not None:
        return "vary"
    return "imagine"


RERUN: Final = Action(name="rerun", emoji="🔁", kind=JobKind.RERUN)
VARY: Final = Action(name="vary", emoji="🎲", command="vary", kind=JobKind.VARY, of_picture=True)
REMOVE: Final = Action(name="remove", emoji="❌")
# The button below the private question that follows ❌.
DELETE: Final = Action(name="delete", label="Delete")
ACTIONS: Final = (RERUN, VARY, REMOVE, DELETE)

_BY_NAME: Final = {action.name: action for action in ACTIONS}
_BY_EMOJI: Final = {action.emoji: action for action in ACTIONS if action.emoji}
CUSTOM_ID_PATTERN: Final = (
    rf"(?P<action>{'|'.join(_BY_NAME)}):"
    r"(?:(?P<token>[0-9a-f]{1,32})\.)?(?P<job>\d{1,19})(?::(?P<number>\d{1,2}))?"
)


def by_emoji(emoji: str) -> Action | None:
    """Return the action of a reaction with this emoji, if there is one."""
    return _BY_EMOJI.get(emoji)


@dataclass(frozen=True, slots=True)
class CustomId:
    """What a button does to which job; `number` counts its pictures from 1.

    `token` is None in a button of the first version.
    """

    action: Action
    job_id: int
    token: str | None
    number: int = 1

    def __str__(self) -> str:
        job = str(self.job_id) if self.token is None else f"{self.token}.{self.job_id}"
        return f"{self.action.name}:{job}{f':{self.number}' if self.action.of_picture else ''}"

    @classmethod
    def of(cls, action: Action, job: Job, number: int = 1) -> CustomId:
        """Return the custom id of the button for an action on a job."""
        return cls(action, job.id, job.token or None, number)

    @classmethod
    def read(cls, match: re.Match[str]) -> CustomId:
        """Return the custom id that matched `CUSTOM_ID_PATTERN`."""
        action, number = _BY_NAME[match["action"]], int(match["number"] or 1)
        return cls(action, int(match["job"]), match["token"], number)


def remove_ids(job: Job) -> tuple[str, str]:
    """Return the custom ids of a job's ❌: today's, and the one of the first version."""
    return str(CustomId.of(REMOVE, job)), str(CustomId(REMOVE, job.id, None))
