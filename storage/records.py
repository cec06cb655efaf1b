"""What the store hands out: jobs, their images, and lines of the history."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from generation.errors import GenerationError
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from generation.values.request import SIZE_MIN, GenerationRequest

from .errors import JobUnreadable
from .states import JobStatus


class Remover(enum.StrEnum):
    """Who cancelled or deleted a job.

    DISCORD stands for its own means: a message, a channel or a server that is gone from there.
    """

    OWNER = "owner"
    MODERATOR = "moderator"
    DISCORD = "discord"


@dataclass(frozen=True, slots=True)
class Removal:
    """Who took a job away; `person_id` is the id of the person, if it is known."""

    remover: Remover
    person_id: int | None = None

    def __str__(self) -> str:
        """Return it as the log says it; who deleted their own data is not said."""
        is_moderator = self.remover is Remover.MODERATOR
        return f"moderator {self.person_id}" if is_moderator else f"the {self.remover}"

    def kept(self) -> dict[str, str | int | None]:
        """Return what is kept of it: who a moderator was, but not whose data is deleted."""
        is_moderator = self.remover is Remover.MODERATOR
        return {"kind": self.remover.value, "person": self.person_id if is_moderator else None}


class JobKind(enum.StrEnum):
    """How a job came to be."""

    IMAGINE = "imagine"
    VARY = "vary"
    RERUN = "rerun"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What somebody asks for, where, and which image it comes from.

    `origin` names the event that asked, say `interaction:123`; it need not be unique. `weight`
    is how much of the engine the job gets beside those of others. `age_restricted` says whether
    the channel was for adults only; jobs of the first versions do not know.
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
    """One accepted request; `created_at` is in UTC.

    `error` is the sentence of a failed one. An unfinished one with a sentence failed too, and its
    person could not be told yet.

    Ids start again with a new database, and after a backup is restored those that were given
    since it was made are given again. So each job has a random `token` too, which no other job
    has: one for the whole database would be restored with the backup, and would say the same of
    two jobs with one id.

    Nothing is known of a deleted job but what its message needs to be removed: its person is 0,
    and its request is a stand-in. `ended_by` is who cancelled or deleted it. `has_upload` tells
    that it started from a picture from outside.
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
        """Return the job with the size of its source alone."""
        request = self.request.without_pixels()
        return self if request is self.request else dataclasses.replace(self, request=request)

    def origin_of(self, index: int) -> str:
        """Return what its file says of an image: which of which job, in which database."""
        return f"{self.token}.{self.id}-{index + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One picture of a job; `index` counts from 0, `sha256` is the hash of its file.

    `parent_image_id` is its lineage: the image that its job came from. The recipe of a deleted
    one is a stand-in.
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
    """A line of somebody's history; `seed` is the one of the first of `count` images.

    `searched` is what a search looks at: the prompt as it was typed, and as the model read it.
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


Row = Mapping[str, Any]


FORGOTTEN: Final = "{}"
"""What stands in a row for the request or the recipe of a deleted job."""
UNSTRIPPED: Final = "[]"
"""The same for a recipe that may still stand in the file of the picture."""
_NO_REQUEST: Final = GenerationRequest(
    prompt="(deleted)",
    seed=0,
    width=SIZE_MIN,
    height=SIZE_MIN,
    steps=1,
    guidance_scale=1.0,
    scheduler="ddim",
)
_NO_RECIPE: Final = Recipe(
    prompt=_NO_REQUEST.prompt,
    negative_prompt="",
    seed=0,
    width=SIZE_MIN,
    height=SIZE_MIN,
    steps=1,
    guidance_scale=1.0,
    scheduler="ddim",
    scheduler_settings={},
    model="",
    model_sha256="",
    dtype="",
    device="",
    source_sha256=None,
    strength=None,
    unread_prompt="",
    versions={},
    pixels_sha256="",
)


def request_to_json(request: GenerationRequest) -> str:
    """Return the request without its source as JSON in ASCII, which keeps any text as it is."""
    values = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if field.name != "source"
    }
    return json.dumps(values, sort_keys=True)


def request_from_json(text: str, source: Pixels | None) -> GenerationRequest:
    """Return the request that was stored, with its source put back; of a deleted job a stand-in."""
    if text == FORGOTTEN:
        return _NO_REQUEST
    values = json.loads(text)
    if source is None:
        values["strength"] = None
    return GenerationRequest(**values, source=source)


def recipe_to_json(recipe: Recipe) -> str:
    """Return the recipe as JSON in ASCII, which keeps any text as it is."""
    return json.dumps(json.loads(recipe.to_json()), sort_keys=True)


def job_from_row(row: Row, source: Pixels | None) -> Job:
    """Return the job of a row of `jobs`, given the picture that it refers to.

    Raises:
        JobUnreadable: another version wrote it, which had other limits or fields.
    """
    with _reading(row["id"]):
        return _job_from_row(row, source)


@contextmanager
def _reading(job_id: int) -> Iterator[None]:
    """Raise JobUnreadable where a row holds what this version never wrote: damage does it too."""
    try:
        yield
    except (GenerationError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise JobUnreadable(job_id, str(error) or type(error).__name__) from error


def _job_from_row(row: Row, source: Pixels | None) -> Job:
    return Job(
        id=row["id"],
        token=row["token"] or "",
        kind=JobKind(row["kind"]),
        status=JobStatus(row["status"]),
        user_id=row["user_id"],
        guild_id=row["guild_id"],
        channel_id=row["channel_id"],
        message_id=row["message_id"],
        origin=row["origin"],
        weight=row["weight"],
        age_restricted=bool(row["age_restricted"]),
        parent_image_id=row["parent_image_id"],
        request=request_from_json(row["request"], source),
        attempts=row["attempts"],
        error=row["error"],
        created_at=datetime.fromisoformat(row["created_at"]),
        deleted=bool(row["deleted"]),
        ended_by=_removal(row["ended_by"], row["ended_by_id"]),
        has_upload=row["source_sha256"] is not None and row["parent_image_id"] is None,
    )


def _removal(kind: str | None, person_id: int | None) -> Removal | None:
    return None if kind is None else Removal(Remover(kind), person_id)


def image_from_row(row: Row) -> StoredImage:
    """Return the image of a row of `images` joined with its job's `parent_image_id`.

    Raises:
        JobUnreadable: its recipe cannot be read.
    """
    with _reading(row["job_id"]):
        return StoredImage(
            id=row["id"],
            job_id=row["job_id"],
            index=row["index"],
            sha256=row["sha256"],
            recipe=_NO_RECIPE
            if row["recipe"] in (FORGOTTEN, UNSTRIPPED)
            else Recipe.from_json(row["recipe"]),
            parent_image_id=row["parent_image_id"],
            deleted=bool(row["deleted"]),
        )


def entry_from_row(row: Row) -> HistoryEntry:
    """Return the line of the history for a row of `jobs`.

    Raises:
        JobUnreadable: it holds what no version wrote.
    """
    with _reading(row["id"]):
        request = json.loads(row["request"])
        return HistoryEntry(
            job_id=row["id"],
            prompt=request["prompt"],
            kind=JobKind(row["kind"]),
            status=JobStatus(row["status"]),
            seed=request["seed"],
            count=request["count"],
            created_at=datetime.fromisoformat(row["created_at"]),
            guild_id=row["guild_id"],
            channel_id=row["channel_id"],
            message_id=row["message_id"],
            age_restricted=bool(row["age_restricted"]),
            searched=f"{request['prompt']} {request.get('read_prompt') or ''}",
        )
