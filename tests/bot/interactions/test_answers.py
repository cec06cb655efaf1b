"""Errors that discord.py alone would log with a trace."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import discord
import pytest
from discord import app_commands

from bot.interactions.answers import shorten_suggestion_errors
from storage.errors import DiskFull
from storage.history import History

from ..stage import Stage


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    logger = logging.getLogger("discord.app_commands.tree")
    logger.addFilter(shorten_suggestion_errors)
    yield caplog
    logger.removeFilter(shorten_suggestion_errors)


def late(stage: Stage, _: pytest.MonkeyPatch) -> None:
    stage.env.inject_error("POST", "/interactions/*/*/callback", status=404, code=10062)


def disk_full(_: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any) -> Any:
        raise DiskFull(Path("data"))

    monkeypatch.setattr(History, "search", failing)


@pytest.mark.parametrize("fault", [late, disk_full])
async def test_failed_suggestions_are_logged_as_one_line(
    stage: Stage, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    stage.env.check_errors = False
    fault(stage, monkeypatch)
    assert await stage.alice.autocomplete(stage.channel, "history", "search", "rab") == []
    (record,) = [one for one in log.records if one.name == "discord.app_commands.tree"]
    assert record.getMessage().startswith("A person who was typing got no suggestions: ")
    assert record.levelno == logging.WARNING
    assert record.exc_info is None


def test_an_unexpected_error_keeps_its_trace() -> None:
    error = RuntimeError("a fault of the bot")
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "said", (), (RuntimeError, error, None))
    assert shorten_suggestion_errors(record)
    assert (record.msg, record.levelno) == ("said", logging.ERROR)
    assert record.exc_info


async def test_a_command_of_another_version_is_answered_with_advice(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.env.check_errors = False
    stage.bot.tree.remove_command("history")
    answer = await stage.alice.slash(stage.channel, "history")
    assert answer.ephemeral
    assert answer.response is not None
    assert answer.response.content.startswith("Discord still shows you an older form")
    assert not [record for record in caplog.records if record.exc_info]


async def test_suggestions_for_a_command_of_another_version_get_no_message(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = mock.AsyncMock()
    monkeypatch.setattr("bot.client.tell", tell)
    error = app_commands.CommandNotFound("old", [])
    typing: Any = SimpleNamespace(type=discord.InteractionType.autocomplete)
    await stage.bot._on_command_error(typing, error)
    tell.assert_not_awaited()
    using: Any = SimpleNamespace(type=discord.InteractionType.application_command)
    await stage.bot._on_command_error(using, error)
    tell.assert_awaited_once()
