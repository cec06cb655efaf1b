"""The table of actions, and the places that have to know each row."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from unittest import mock

import pytest
from discord.ext import commands
from hypothesis import given
from hypothesis import strategies as st

from bot.cogs.buttons import HANDLERS, ActionButton
from bot.cogs.edit import Edit
from bot.cogs.imagine import Imagine
from bot.cogs.vary import Vary
from bot.interactions.actions import Actions
from bot.ui.actions import (
    ACTIONS,
    CUSTOM_ID_PATTERN,
    DELETE,
    REMOVE,
    RERUN,
    VARY,
    Action,
    CustomId,
    by_emoji,
    remove_ids,
)
from bot.ui.views import button, cancelled_view, delete_view, finished_view, waiting_view
from generation.values.pixels import StoredPixels
from storage.records import JobKind

from .test_messages import JOB, REQUEST

TOKENS = st.none() | st.text("0123456789abcdef", min_size=1, max_size=32)
EVERY_ACTION = pytest.mark.parametrize("action", ACTIONS, ids=[action.name for action in ACTIONS])


def shown(view: Any) -> list[tuple[str, str]]:
    return [(str(item.emoji or item.label), item.custom_id) for item in view.children]


@pytest.mark.parametrize(
    ("action", "emoji", "command", "kind", "custom_id"),
    [
        (RERUN, "🔁", None, JobKind.RERUN, "rerun:ab12.7"),
        (VARY, "🎲", "vary", JobKind.VARY, "vary:ab12.7:3"),
        (REMOVE, "❌", None, None, "remove:ab12.7"),
        (DELETE, "", None, None, "delete:ab12.7"),
    ],
    ids=["rerun", "vary", "remove", "delete"],
)
def test_old_messages_and_reactions_depend_on_these_rows(
    action: Action, emoji: str, command: str | None, kind: JobKind | None, custom_id: str
) -> None:
    assert (action.emoji, action.command, action.kind) == (emoji, command, kind)
    assert str(CustomId(action, 7, "ab12", 3)) == custom_id
    assert by_emoji(emoji) is (action if emoji else None)


def test_no_two_rows_share_a_name_or_an_emoji() -> None:
    emoji = [action.emoji for action in ACTIONS if action.emoji]
    assert len({action.name for action in ACTIONS}) == len(ACTIONS)
    assert len(set(emoji)) == len(emoji)


@EVERY_ACTION
@given(st.integers(0, 10**19 - 1), TOKENS, st.integers(1, 99))
def test_what_a_button_says_is_read_from_its_custom_id(
    action: Action, job_id: int, token: str | None, number: int
) -> None:
    written = CustomId(action, job_id, token, number if action.of_picture else 1)
    match = re.fullmatch(CUSTOM_ID_PATTERN, str(written))
    assert match is not None
    assert CustomId.read(match) == written
    assert len(str(written)) <= 100


@pytest.mark.parametrize("text", ["", "rerun:", "rerun:x.1", "upscale:1", "vary:1:", "remove:1 "])
def test_other_custom_ids_are_none_of_these_buttons(text: str) -> None:
    assert re.fullmatch(CUSTOM_ID_PATTERN, text) is None


@EVERY_ACTION
async def test_every_button_has_a_handler_and_looks_as_it_was_sent(action: Action) -> None:
    assert action in HANDLERS
    sent = button(CustomId.of(action, JOB))
    match = re.fullmatch(CUSTOM_ID_PATTERN, str(sent.custom_id))
    assert match is not None
    clicked = await ActionButton.from_custom_id(mock.Mock(), sent, match)
    assert clicked.item.to_component_dict() == sent.to_component_dict()


@EVERY_ACTION
async def test_an_action_that_makes_a_job_has_a_maker_and_a_command(action: Action) -> None:
    if action.kind is None:
        assert action.command is None
        return
    parts: Any = mock.Mock()
    actions = Actions(lookup=parts, models=parts, store=parts, memory=parts)
    assert action.kind in actions._makers
    cogs: list[commands.Cog] = [Imagine(parts), Vary(parts, parts), Edit(parts, parts)]
    known = {command.name for cog in cogs for command in cog.get_app_commands()}
    assert {action.command_for(job) for job in JOBS.values()} <= known


JOBS = {
    "imagine": JOB,
    "vary": dataclasses.replace(JOB, kind=JobKind.VARY, parent_image_id=3),
    "vary an upload": dataclasses.replace(JOB, kind=JobKind.VARY, has_upload=True),
    "edit": dataclasses.replace(
        JOB,
        kind=JobKind.EDIT,
        parent_image_id=3,
        has_upload=True,
        request=dataclasses.replace(REQUEST, references=(StoredPixels(64, 64),)),
    ),
}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("made_by", JOBS)
def test_a_rerun_needs_the_right_to_the_command_that_made_the_job(
    made_by: str, again: bool
) -> None:
    job = JOBS[made_by]
    job = dataclasses.replace(job, kind=JobKind.RERUN) if again else job
    assert RERUN.command_for(job) == made_by.split(maxsplit=1)[0]
    assert VARY.command_for(job) == "vary"
    assert REMOVE.command_for(job) is None


def test_each_message_has_the_buttons_of_its_state() -> None:
    job = dataclasses.replace(JOB, id=7, token="ab12")
    rerun, remove = ("🔁", "rerun:ab12.7"), ("❌", "remove:ab12.7")
    assert shown(waiting_view(job)) == [remove]
    assert shown(cancelled_view(job)) == [rerun, remove]
    assert shown(finished_view(job, [2])) == [rerun, ("🎲", "vary:ab12.7:2"), remove]
    several = shown(finished_view(job, [1, 3]))
    assert several == [rerun, remove, ("🎲", "vary:ab12.7:1"), ("🎲", "vary:ab12.7:3")]
    assert shown(delete_view(job)) == [("Delete", "delete:ab12.7")]
    assert remove_ids(job) == ("remove:ab12.7", "remove:7")
