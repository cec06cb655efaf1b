"""Buttons below messages, without the callbacks, which are in `bot.cogs.buttons`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from discord import ButtonStyle
from discord.ui import Button, View

from storage.records import Job

from .actions import DELETE, REMOVE, RERUN, VARY, CustomId


def button(custom_id: CustomId, *, label: str | None = None, row: int | None = None) -> Button[Any]:
    """Return the button of an action; `label` stands in for the action's own."""
    action = custom_id.action
    return Button(
        emoji=action.emoji or None,
        label=label or action.label,
        style=ButtonStyle.danger if action is DELETE else ButtonStyle.secondary,
        custom_id=str(custom_id),
        row=row,
    )


def waiting_view(job: Job) -> View:
    """Return the button of a job that is not finished."""
    return _view(button(CustomId.of(REMOVE, job)))


def cancelled_view(job: Job) -> View:
    """Return the buttons of a job that was cancelled or has failed.

    The store does not keep the upload of such a job, so a job with one cannot be run again.
    """
    actions = [REMOVE] if job.has_upload else [RERUN, REMOVE]
    return _view(*(button(CustomId.of(action, job)) for action in actions))


def finished_view(job: Job, numbers: Sequence[int]) -> View:
    """Return the buttons below the pictures with these numbers."""
    rerun, remove = button(CustomId.of(RERUN, job)), button(CustomId.of(REMOVE, job))
    if len(numbers) == 1:
        return _view(rerun, button(CustomId.of(VARY, job, numbers[0])), remove)
    varies = (button(CustomId.of(VARY, job, n), label=str(n), row=1) for n in numbers)
    return _view(rerun, remove, *varies)


def delete_view(job: Job) -> View:
    """Return the button below the question whether to delete the pictures of a job."""
    return _view(button(CustomId.of(DELETE, job)))


def _view(*buttons: Button[Any]) -> View:
    view = View(timeout=None)
    for item in buttons:
        view.add_item(item)
    # discord.py keeps each view that may still be clicked, one a message, for ever. Clicks on these
    # buttons are found by their custom ids alone.
    view.stop()
    return view
