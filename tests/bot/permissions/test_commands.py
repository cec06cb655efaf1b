"""One rule for buttons and reactions: the right to use the command that does the same."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

import discord
import pytest

from bot.errors import NotAllowed
from bot.permissions.commands import CommandAccess
from bot.ui.actions import REMOVE, RERUN, Action

from ..ui.test_messages import JOB

RULES = list(itertools.product((False, True), (False, True), (False, True)))


def access(*, may_use: bool, is_set: bool, is_known: bool = True) -> CommandAccess:
    """Return the rule where a person has the permission or not, and admins allow it or not."""
    channel = mock.Mock(id=5) if is_known else None
    allowed = discord.Permissions(use_application_commands=may_use)
    members: Any = mock.Mock(channel_of=lambda _: channel, permissions=lambda *_: allowed)
    integrations: Any = mock.Mock(allow=mock.AsyncMock(return_value=is_set))
    return CommandAccess(members, integrations)


def click(*, may_use: bool, guild_id: int | None = 1) -> Any:
    permissions = discord.Permissions(use_application_commands=may_use)
    return mock.Mock(guild_id=guild_id, permissions=permissions)


@pytest.mark.parametrize(("may_use", "is_set", "is_known"), RULES)
async def test_a_reaction_needs_the_permission_the_settings_and_a_known_channel(
    may_use: bool, is_set: bool, is_known: bool
) -> None:
    rule = access(may_use=may_use, is_set=is_set, is_known=is_known)
    expected = may_use and is_set and is_known
    assert await rule.may_react(JOB, mock.Mock(), RERUN) is expected


@pytest.mark.parametrize(
    ("may_use", "is_set", "refusal"),
    [
        (True, True, None),
        (False, True, "You may not use commands in this channel"),
        (True, False, "You may not use /imagine in this channel"),
        (False, False, "You may not use commands in this channel"),
    ],
)
async def test_a_click_needs_the_permission_and_the_settings(
    may_use: bool, is_set: bool, refusal: str | None
) -> None:
    rule = access(may_use=may_use, is_set=is_set)
    checking = rule.check_click(click(may_use=may_use), RERUN, JOB)
    if refusal is None:
        await checking
    else:
        with pytest.raises(NotAllowed, match=refusal):
            await checking


@pytest.mark.parametrize(
    ("action", "guild_id"), [(REMOVE, 1), (RERUN, None)], ids=["remove", "direct message"]
)
async def test_no_command_and_no_server_set_no_rule(action: Action, guild_id: int | None) -> None:
    clicked = click(may_use=False, guild_id=guild_id)
    await access(may_use=False, is_set=False).check_click(clicked, action, JOB)


@pytest.mark.parametrize("user_id", [7, 8])
async def test_a_reaction_in_a_direct_message_is_the_owner_s_alone(user_id: int) -> None:
    job: Any = mock.Mock(guild_id=None, user_id=7)
    rule = access(may_use=False, is_set=False)
    assert await rule.may_react(job, mock.Mock(id=user_id), RERUN) is (user_id == 7)
