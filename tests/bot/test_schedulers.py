"""Every scheduler of the registry can be chosen in Discord and on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from bot.cli import generate as generate_module
from bot.cli.app import app
from bot.cogs.imagine import Imagine
from bot.requests.options import RequestOptions
from bot.ui import messages
from generation.schedulers.registry import REGISTRY, SPACINGS
from generation.values.request import SchedulerName
from storage.records import Job

from ..generation.examples import a_recipe
from .ui.test_messages import asking


def test_discord_offers_each_spacing() -> None:
    [option] = [found for found in Imagine.imagine.parameters if found.name == "spacing"]
    assert [choice.value for choice in option.choices] == list(SPACINGS)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_command_line_takes_each(name: SchedulerName, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RequestOptions] = []

    def note(options: RequestOptions, **_: Any) -> int:
        given.append(options)
        return 0

    monkeypatch.setattr(generate_module, "generate_files", note)
    options = ("--scheduler", name, "--spacing", "trailing")
    result = CliRunner().invoke(app, ["generate", "rabbit face", *options])
    assert result.exit_code == 0
    assert (given[0].scheduler, given[0].spacing) == (name, "trailing")
    told = CliRunner().invoke(app, ["generate", "--help"], env={"COLUMNS": "200"})
    assert name in told.stdout


@pytest.mark.parametrize("name", REGISTRY)
def test_the_message_above_the_pictures_names_each(name: SchedulerName) -> None:
    job: Job = asking("rabbit face")
    told = messages.finished(job, a_recipe(scheduler=name))
    assert f" · {REGISTRY[name].label} · " in told
    told = messages.finished(job, a_recipe(scheduler=name, spacing="karras"))
    assert f" · {REGISTRY[name].label} Karras · " in told
