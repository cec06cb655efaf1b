"""The verdict: every job must have exactly one message with its pictures.

The message of a cancelled job must show the cancellation. A removed job must have no message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from bot.ui.actions import remove_ids
from storage.folder.layout import DATABASE_NAME, PICTURES_NAME
from storage.pictures.files import PictureFiles
from storage.queries import jobs as queries
from storage.queries.conversion import job_from_row
from storage.records import Job
from storage.sqlite.readonly import open_readonly
from storage.states import JobStatus

from ..rig import Asked, MessageView
from ..running import Reference, finished, shown
from .run import Killing


@dataclass(frozen=True, slots=True)
class Figures:
    """The counts of a run; `lost`, `doubled` and `changed` must be 0.

    Accepted jobs are in the database, or their commands were answered in the channel. Doubled are
    commands with two jobs, jobs with two messages, and messages without a job. Changed pictures
    differ from the pictures of their seeds. `doubles` says of each doubled one what it is.
    """

    kills: int
    accepted: int
    lost: int
    doubled: int
    changed: int
    doubles: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.kills} kills: {self.accepted} jobs accepted, {self.lost} lost, "
            f"{self.doubled} doubled, {self.changed} changed"
        )


def judge(run: Killing, reference: Reference) -> Figures:
    """Return the counts of a finished run."""
    jobs = _jobs(run)
    # A deleted job has no origin.
    by_origin = Counter(job.origin for job in jobs if job.origin is not None)
    answers = {job.id: _answers(job, run) for job in jobs}
    forgotten = [asked for asked in run.asked if _promised(asked) and not by_origin[_name(asked)]]
    doubles = tuple(_doubles(run, by_origin, answers))
    return Figures(
        kills=run.kills,
        accepted=len(jobs) + len(forgotten),
        lost=len(forgotten) + sum(not _complete(job, answers[job.id]) for job in jobs),
        doubled=len(doubles),
        changed=sum(_changed(job, answers[job.id], reference) for job in jobs),
        doubles=doubles,
    )


def _doubles(
    run: Killing, by_origin: Counter[str], answers: Mapping[int, list[MessageView]]
) -> Iterator[str]:
    """Yield a sentence for each command with two jobs, and each message that is one too many."""
    for origin, count in by_origin.items():
        yield from [f"{origin} made {count} jobs"] * (count - 1)
    for number, messages in answers.items():
        if len(messages) > 1:
            yield f"job {number} has {len(messages)} messages: {[_seen(it) for it in messages]}"
    known = {message.id for messages in answers.values() for message in messages}
    for message in run.answers():
        if message.id not in known:
            yield f"no job has the message {_seen(message)}"


def _seen(message: MessageView) -> str:
    files = [file.name for file in message.attachments]
    return f"{message.id} {message.content!r} {files}"


def _jobs(run: Killing) -> list[Job]:
    pictures = PictureFiles(run.data / PICTURES_NAME)
    with closing(open_readonly(run.data / DATABASE_NAME)) as db:
        rows = db.query("SELECT * FROM jobs ORDER BY id")
        # The pictures of a cancelled job are removed, and no pictures are compared with it.
        return [
            job_from_row(row, None)
            if row["status"] == JobStatus.CANCELLED
            else queries.job_of(db, pictures, row)
            for row in rows
        ]


def _name(asked: Asked) -> str:
    return f"interaction:{asked.record.id}"


def _promised(asked: Asked) -> bool:
    """Return whether the person saw an answer; "thinking" does not count."""
    return asked.message is not None and not asked.ephemeral and bool(asked.message.content)


def _answers(job: Job, run: Killing) -> list[MessageView]:
    """Return the messages that belong to a job by origin, button or file name."""
    first = {
        asked.message.id
        for asked in run.asked
        if _name(asked) == job.origin and asked.message and not asked.ephemeral
    }
    return [
        message
        for message in run.answers()
        if message.id in first
        or any(button.custom_id in remove_ids(job) for button in message.buttons)
        or any(file.name.startswith(f"imagine-{job.id}-") for file in message.attachments)
    ]


def _complete(job: Job, messages: list[MessageView]) -> bool:
    if job.deleted:
        return not messages
    if job.status is JobStatus.CANCELLED:
        return any("cancelled ·" in it.content and not finished(it) for it in messages)
    return any(len(finished(message)) == job.request.count for message in messages)


def _changed(job: Job, messages: list[MessageView], reference: Reference) -> int:
    if job.deleted or job.status is JobStatus.CANCELLED:
        return 0
    wanted = reference.pictures(job.request)
    return sum(
        shown(file) != right
        for message in messages
        for file, right in zip(finished(message), wanted, strict=False)
    )
