"""Buttons below messages. What a click does stands in `bot.cogs.buttons`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from discord import ButtonStyle
from discord.ui import Button, View

from storage.records import Job

from .custom_ids import (
    DELETE_ID,
    REMOVE_EMOJI,
    REMOVE_ID,
    RERUN_EMOJI,
    RERUN_ID,
    VARY_EMOJI,
    VARY_ID,
    JobKey,
)


def rerun_button(key: JobKey) -> Button[Any]:
    """Return 🔁, which makes new pictures from the same recipe."""
    return Button(emoji=RERUN_EMOJI, custom_id=RERUN_ID.format(job=key))


def vary_button(
    key: JobKey, number: int, *, numbered: bool = False, row: int | None = None
) -> Button[Any]:
    """Return 🎲, which makes a variation of picture `number`.

    With `numbered` its label says which picture.
    """
    return Button(
        emoji=VARY_EMOJI,
        label=str(number) if numbered else None,
        custom_id=VARY_ID.format(job=key, number=number),
        row=row,
    )


def remove_button(key: JobKey) -> Button[Any]:
    """Return ❌, which cancels a job, or asks whether its pictures are to be deleted."""
    return Button(emoji=REMOVE_EMOJI, custom_id=REMOVE_ID.format(job=key))


def delete_button(key: JobKey) -> Button[Any]:
    """Return the button that deletes the pictures of a job."""
    return Button(label="Delete", style=ButtonStyle.danger, custom_id=DELETE_ID.format(job=key))


def waiting_view(job: Job) -> View:
    """Return the buttons of a job that is not finished."""
    return _view(remove_button(JobKey.of(job)))


def cancelled_view(job: Job) -> View:
    """Return the buttons of a job that was cancelled or has failed.

    The store does not keep a picture that was uploaded for such a job, so there is no 🔁 then.
    """
    key = JobKey.of(job)
    if job.has_upload:
        return _view(remove_button(key))
    return _view(rerun_button(key), remove_button(key))


def finished_view(job: Job, numbers: Sequence[int]) -> View:
    """Return the buttons below the pictures with these numbers."""
    key = JobKey.of(job)
    if len(numbers) == 1:
        return _view(rerun_button(key), vary_button(key, numbers[0]), remove_button(key))
    varies = (vary_button(key, number, numbered=True, row=1) for number in numbers)
    return _view(rerun_button(key), remove_button(key), *varies)


def delete_view(job: Job) -> View:
    """Return the button below the question whether the pictures of a job are to be deleted."""
    return _view(delete_button(JobKey.of(job)))


def _view(*buttons: Button[Any]) -> View:
    view = View(timeout=None)
    for button in buttons:
        view.add_item(button)
    # discord.py keeps each view that may still be clicked, one a message, for ever. The clicks on
    # these are answered by their custom ids alone.
    view.stop()
    return view
