"""Rows of the database as records, and requests and recipes as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from generation.errors import GenerationError
from generation.values.inversion import Inversion
from generation.values.lora import Lora
from generation.values.pixels import Pixels, StoredPixels
from generation.values.recipe import Recipe
from generation.values.request import SIZE_MIN, GenerationRequest

from ..errors import JobUnreadable
from ..records import HistoryEntry, Job, JobKind, Removal, Remover, StoredImage
from ..states import JobStatus

Row = Mapping[str, Any]


FORGOTTEN: Final = "{}"
"""The request and the recipe in the rows of a deleted job."""
UNSTRIPPED: Final = "[]"
"""The recipe in the row of a deleted image whose file may still hold the recipe."""
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
    """Return the request without its pictures as JSON; ASCII escapes preserve any text.

    The sizes of the references are in the JSON.
    """
    values = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if field.name not in ("source", "references", "loras", "inversions")
    }
    if request.references:
        values["references"] = [[picture.width, picture.height] for picture in request.references]
    if request.loras:
        values["loras"] = [dataclasses.asdict(lora) for lora in request.loras]
    if request.inversions:
        values["inversions"] = [dataclasses.asdict(each) for each in request.inversions]
    return json.dumps(values, sort_keys=True)


def request_from_json(
    text: str, source: Pixels | None, references: Sequence[Pixels] = ()
) -> GenerationRequest:
    """Return a stored request with its pictures; a placeholder if the job is deleted.

    Without `references` the request holds the sizes of its references.
    """
    if text == FORGOTTEN:
        return _NO_REQUEST
    values = json.loads(text)
    if source is None:
        values["strength"] = None
    sizes = [StoredPixels(width, height) for width, height in values.pop("references", ())]
    loras = tuple(Lora(**lora) for lora in values.pop("loras", ()))
    inversions = tuple(Inversion(**each) for each in values.pop("inversions", ()))
    return GenerationRequest(
        **values,
        source=source,
        references=(*(references or sizes),),
        loras=loras,
        inversions=inversions,
    )


def recipe_to_json(recipe: Recipe) -> str:
    """Return the recipe as JSON; ASCII escapes preserve any text."""
    return json.dumps(json.loads(recipe.to_json()), sort_keys=True)


def job_from_row(row: Row, source: Pixels | None, references: Sequence[Pixels] = ()) -> Job:
    """Return the job of a row of `jobs`, with the pictures that the rows refer to.

    Without `references` the request holds the sizes of its references.

    Raises:
        JobUnreadable: the row is damaged, or a version with other limits or fields wrote it.
    """
    with _reading(row["id"]):
        return _job_from_row(row, source, references)


@contextmanager
def _reading(job_id: int) -> Iterator[None]:
    """Turn the errors of unexpected values in a row into JobUnreadable."""
    try:
        yield
    except (GenerationError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise JobUnreadable(job_id, str(error) or type(error).__name__) from error


def _job_from_row(row: Row, source: Pixels | None, references: Sequence[Pixels]) -> Job:
    request = request_from_json(row["request"], source, references)
    starts_from_upload = row["source_sha256"] is not None and row["parent_image_id"] is None
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
        request=request,
        attempts=row["attempts"],
        error=row["error"],
        created_at=datetime.fromisoformat(row["created_at"]),
        deleted=bool(row["deleted"]),
        ended_by=_removal(row["ended_by"], row["ended_by_id"]),
        has_upload=starts_from_upload or bool(request.references),
    )


def _removal(kind: str | None, person_id: int | None) -> Removal | None:
    return None if kind is None else Removal(Remover(kind), person_id)


def image_from_row(row: Row) -> StoredImage:
    """Return the image of a row of `images` joined with its job's `parent_image_id`.

    Raises:
        JobUnreadable: the recipe cannot be read.
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
    """Return the history entry of a row of `jobs`.

    Raises:
        JobUnreadable: the row cannot be read.
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
