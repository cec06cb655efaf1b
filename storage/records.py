"""The records of the store: jobs, their images, and entries of the history."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from datetime import datetime

from generation.values.recipe import Recipe
from generation.values.request import GenerationRequest

from .states import JobStatus


class Remover(enum.StrEnum):
    """Who cancelled or deleted a job.

    DISCORD: the message, the channel or the server was deleted on Discord.
    """

    OWNER = "owner"
    MODERATOR = "moderator"
    DISCORD = "discord"


@dataclass(frozen=True, slots=True)
class Removal:
    """Who cancelled or deleted a job; `person_id` is a Discord id, if known."""

    remover: Remover
    person_id: int | None = None

    def __str__(self) -> str:
        """Return the words for the log, without the id of an owner."""
        is_moderator = self.remover is Remover.MODERATOR
        return f"moderator {self.person_id}" if is_moderator else f"the {self.remover}"

    def columns(self) -> dict[str, str | int | None]:
        """Return the values to store: the id of a moderator, but not the id of an owner."""
        is_moderator = self.remover is Remover.MODERATOR
        return {"kind": self.remover.value, "person": self.person_id if is_moderator else None}


class JobKind(enum.StrEnum):
    """The way in which a job was requested."""

    IMAGINE = "imagine"
    VARY = "vary"
    EDIT = "edit"
    RERUN = "rerun"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to store: the request, its member and its channel.

    `origin` names the event of the request, such as `interaction:123`; it need not be unique.
    `weight` is the job's share of the engine, relative to other jobs. `age_restricted` says
    whether the channel was age-restricted; it is False for jobs of the first versions.
    """

    kind: JobKind
    user_id: int
    guild_id: int | None
    channel_id: int
    request: GenerationRequest
    parent_image_id: int | None = None
    origin: str | None = None
    weight: float = 1.0
    age_restricted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(NewJob):
    """An accepted job; `created_at` is in UTC.

    `error` is the sentence of a failed job. An unfinished job with an `error` failed too, but its
    member could not be told yet.

    Ids are not unique for ever: a new database starts at 1, and a restored backup assigns the ids
    again that were assigned after the backup. So each job has a random `token`. A token of the
    database would not do, since a restore would bring it back too.

    A deleted job keeps only what is needed to delete its message: `user_id` is 0 and `request` is
    a placeholder. `ended_by` says who cancelled or deleted the job. `has_upload` says that the job
    needs an uploaded picture.
    """

    id: int
    token: str = ""
    status: JobStatus
    message_id: int | None
    error: str | None
    attempts: int
    created_at: datetime
    deleted: bool
    ended_by: Removal | None = None
    has_upload: bool = False

    def without_pixels(self) -> Job:
        """Return the job with the sizes of its pictures instead of their pixels."""
        request = self.request.without_pixels()
        return self if request is self.request else dataclasses.replace(self, request=request)

    def origin_of(self, index: int) -> str:
        """Return the text that identifies an image in its PNG file: token, job and number."""
        return f"{self.token}.{self.id}-{index + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One image of a job; `index` counts from 0, `sha256` is the hash of the file.

    `parent_image_id` is the lineage: the image that the job varied. The recipe of a deleted image
    is a placeholder.
    """

    id: int
    job_id: int
    index: int
    sha256: str
    recipe: Recipe
    parent_image_id: int | None
    deleted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """An entry of a member's history; `seed` is the seed of the first of `count` images.

    `searched` is the text that a search compares: the prompt as typed, and as the model read it.
    """

    job_id: int
    prompt: str
    kind: JobKind
    status: JobStatus
    seed: int
    count: int
    created_at: datetime
    guild_id: int | None
    channel_id: int
    message_id: int | None
    age_restricted: bool = False
    searched: str = field(default="", compare=False, repr=False)
