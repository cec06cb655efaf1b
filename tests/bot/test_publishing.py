"""The slash commands are published when Discord has others, and only then."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from discord.http import HTTPClient

from .stage import Stage

COMMANDS = "/applications/*/commands"
IMAGINE = ("imagine", 1)
Commands = dict[tuple[str, int], dict[str, Any]]


def published(stage: Stage) -> Commands:
    commands: Commands = stage.env.backend.commands[None]
    return commands


async def test_a_restart_publishes_nothing_that_discord_has(stage: Stage) -> None:
    before = copy.deepcopy(published(stage))
    stage.env.inject_error("PUT", COMMANDS, status=400, code=0)
    await stage.restart()
    assert stage.env.backend.faults, "the commands were published"
    stage.env.backend.faults.clear()
    assert published(stage) == before
    ids = {command["name"]: int(command["id"]) for command in before.values()}
    assert stage.bot.integrations._ids == ids
    assert (await stage.imagine()).attachments


def rename(commands: Commands) -> None:
    commands["paint", 1] = {**commands.pop(IMAGINE), "name": "paint"}


def add(commands: Commands) -> None:
    commands["spam", 1] = {**commands[IMAGINE], "name": "spam", "id": "77"}


def set_to(**values: Any) -> Callable[[Commands], None]:
    return lambda commands: commands[IMAGINE].update(values)


def set_option(**values: Any) -> Callable[[Commands], None]:
    return lambda commands: commands[IMAGINE]["options"][-1].update(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda commands: commands.pop(IMAGINE),
        rename,
        add,
        set_to(description="Spam"),
        set_to(contexts=[0]),
        set_to(integration_types=[0, 1]),
        set_to(default_member_permissions="8"),
        set_to(nsfw=True),
        lambda commands: commands[IMAGINE]["options"].reverse(),
        lambda commands: commands[IMAGINE]["options"].pop(),
        set_option(description="Spam"),
        set_option(required=True),
        set_option(min_value=0),
        set_option(choices=[{"name": "Spam", "value": 1}]),
    ],
)
async def test_what_somebody_else_changed_is_set_right(
    stage: Stage, change: Callable[[Commands], None]
) -> None:
    before = copy.deepcopy(published(stage))
    changed = copy.deepcopy(before)
    change(changed)
    stage.env.backend.commands[None] = changed
    await stage.restart()
    for name, command in published(stage).items():
        assert command | {"id": ""} == before[name] | {"id": ""}
    assert list(published(stage)) == list(before)


async def test_what_says_nothing_is_no_change(stage: Stage) -> None:
    for command in published(stage).values():
        command |= {"version": "9", "nsfw": False, "name_localizations": None}
        for option in command["options"]:
            option |= {"required": option.get("required", False), "description_localizations": {}}
    stage.env.inject_error("PUT", COMMANDS, status=400, code=0)
    await stage.restart()
    assert stage.env.backend.faults, "the commands were published"
    stage.env.backend.faults.clear()


@pytest.mark.parametrize("answer", ["<html>", [{"name": "imagine"}], {"message": "no"}, [None]])
async def test_an_answer_that_makes_no_sense_stops_no_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    async def garble(*_: Any) -> Any:
        return answer

    published(stage)[IMAGINE]["description"] = "Spam"
    monkeypatch.setattr(HTTPClient, "get_global_commands", garble)
    await stage.restart()
    assert published(stage)[IMAGINE]["description"] != "Spam"


@pytest.mark.parametrize("answer", ["<html>", [{"name": "imagine"}], [None]])
async def test_a_garbled_answer_to_the_publishing_stops_no_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    upsert = HTTPClient.bulk_upsert_global_commands

    async def garble(*arguments: Any, **options: Any) -> Any:
        await upsert(*arguments, **options)
        return answer

    published(stage)[IMAGINE]["description"] = "Spam"
    monkeypatch.setattr(HTTPClient, "bulk_upsert_global_commands", garble)
    await stage.restart()
    assert published(stage)[IMAGINE]["description"] != "Spam"
    assert stage.bot.integrations._ids


async def test_where_discord_does_not_say_what_it_has_the_commands_are_published(
    stage: Stage,
) -> None:
    published(stage)[IMAGINE]["description"] = "Spam"
    stage.env.inject_error("GET", COMMANDS, status=400, code=0)
    await stage.restart()
    assert not stage.env.backend.faults
    assert published(stage)[IMAGINE]["description"] != "Spam"
