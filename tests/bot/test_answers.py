"""Errors as people and the operator read them, where discord.py would write a trace."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import discord
import pytest
from discord import app_commands

from bot.answers import without_suggestions
from storage.errors import DiskFull
from storage.jobs import JobStore

from .stage import Stage


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    logger = logging.getLogger("discord.app_commands.tree")
    logger.addFilter(without_suggestions)
    yield caplog
    logger.removeFilter(without_suggestions)


def late(stage: Stage, _: pytest.MonkeyPatch) -> None:
    stage.env.inject_error("POST", "/interactions/*/*/callback", status=404, code=10062)


def without_a_disk(_: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any) -> Any:
        raise DiskFull(Path("data"))

    monkeypatch.setattr(JobStore, "history", failing)


@pytest.mark.parametrize("happens", [late, without_a_disk])
async def test_who_gets_no_suggestions_costs_one_line_of_the_log(
    stage: Stage, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, happens: Any
) -> None:
    stage.env.check_errors = False
    happens(stage, monkeypatch)
    assert await stage.alice.autocomplete(stage.channel, "history", "search", "rab") == []
    (record,) = [one for one in log.records if one.name == "discord.app_commands.tree"]
    assert record.getMessage().startswith("Somebody who was typing got no suggestions: ")
    assert record.levelno == logging.WARNING
    assert record.exc_info is None


def test_what_was_not_foreseen_keeps_its_trace() -> None:
    error = RuntimeError("a fault of ours")
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "said", (), (RuntimeError, error, None))
    assert without_suggestions(record)
    assert (record.msg, record.levelno) == ("said", logging.ERROR)
    assert record.exc_info


async def test_a_command_of_another_version_is_answered_with_what_to_do(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.env.check_errors = False
    stage.bot.tree.remove_command("history")
    answer = await stage.alice.slash(stage.channel, "history")
    assert answer.ephemeral
    assert answer.response is not None
    assert answer.response.content.startswith("Discord still shows you an older form")
    assert not [record for record in caplog.records if record.exc_info]


async def test_suggestions_for_a_command_of_another_version_are_not_answered(
    stage: Stage,
) -> None:
    # Discord takes no message there.
    typing: Any = SimpleNamespace(type=discord.InteractionType.autocomplete)
    await stage.bot._on_command_error(typing, app_commands.CommandNotFound("old", []))
