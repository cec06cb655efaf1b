"""What was made in a server that the bot left is deleted; an outage deletes nothing."""

from __future__ import annotations

import asyncio
from unittest import mock

import discord
import pytest

from bot.client import create_bot
from bot.delivery import retry
from storage.errors import StorageError
from storage.jobs import JobStore
from storage.records import Removal, Remover

from ..stage import Person, Stage
from .deletions import PROMPT, deleted, files, missing_guilds, picture_in, record


async def test_leaving_a_server_deletes_its_pictures(stage: Stage) -> None:
    await stage.imagine(PROMPT)
    elsewhere = stage.env.create_guild("Owls")
    channel = elsewhere.create_text_channel("pictures")
    member = elsewhere.add_member(stage.env.create_user("carol"))
    await picture_in(stage, channel, Person(stage.env, elsewhere, member.user))
    stage.env.backend.remove_guild(elsewhere.id)
    assert (await deleted(stage, 2)).guild_id is None
    assert not (await record(stage, 1)).deleted
    assert len(files(stage)) == 1


async def test_an_outage_of_a_server_deletes_nothing(stage: Stage) -> None:
    await stage.imagine(PROMPT)
    stage.env.backend.emit("GUILD_DELETE", {"id": str(stage.guild.id), "unavailable": True})
    known = stage.bot.get_guild(stage.guild.id)
    await stage.until(lambda: known is not None and known.unavailable)
    await stage.env.settle()
    # Deletions are carried out beside the events.
    await asyncio.sleep(0.2)
    assert not (await record(stage)).deleted
    assert len(files(stage)) == 1


async def away(stage: Stage) -> None:
    """Have the bot thrown out of the server while it has no connection."""
    await stage.bot.close()
    guild = stage.env.backend.guilds.pop(stage.guild.id)
    for channel_id in guild.channel_ids:
        stage.env.backend.channels.pop(channel_id)


async def come_back(stage: Stage) -> None:
    await stage.env.restart_bot(create_bot(stage.settings, make_engine=stage.make_engine))


async def compared(stage: Stage) -> None:
    """Have the bot compare its servers, as it does at each connection."""
    await stage.bot.on_ready()
    tasks = [task for task in stage.bot._background._tasks if "look for" in task.get_name()]
    assert tasks
    await asyncio.wait(tasks)


async def test_leaving_a_server_while_offline_deletes_its_pictures(
    stage: Stage,
) -> None:
    await stage.imagine(PROMPT)
    # SimCord names its servers only after it has called the bot ready.
    await compared(stage)
    await away(stage)
    await come_back(stage)
    assert (await deleted(stage)).ended_by == Removal(Remover.DISCORD)
    await stage.until(lambda: not files(stage))

    async def is_forgotten() -> bool:
        return await missing_guilds(stage) == []

    await stage.eventually(is_forgotten)


async def test_a_server_that_the_bot_joins_is_stored(stage: Stage) -> None:
    known = stage.bot.get_guild(stage.env.create_guild("Owls").id)
    assert known is not None
    # SimCord calls every server one that was there before.
    stage.bot.dispatch("guild_join", known)

    async def is_known() -> bool:
        return known.id in await missing_guilds(stage)

    await stage.eventually(is_known)


@pytest.mark.parametrize(("status", "code"), [(404, 10004), (403, 50001)])
async def test_connecting_during_an_outage_of_a_server_deletes_nothing(
    stage: Stage, status: int, code: int
) -> None:
    await stage.imagine(PROMPT)
    await compared(stage)
    stage.env.inject_error("GET", "/guilds/*", status=status, code=code, times=None)
    stage.env.backend.emit("GUILD_DELETE", {"id": str(stage.guild.id), "unavailable": True})
    known = stage.bot.get_guild(stage.guild.id)
    await stage.until(lambda: known is not None and known.unavailable)
    await compared(stage)
    assert not (await record(stage)).deleted
    assert len(files(stage)) == 1
    assert await missing_guilds(stage) == [stage.guild.id]


@pytest.mark.parametrize("code", [10004, 0])
async def test_one_answer_that_the_bot_left_a_server_deletes_nothing(
    stage: Stage, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_DELAYS", (0.01,))
    await stage.imagine(PROMPT)
    await compared(stage)
    # The connection names no server, and Discord's first answer is wrong too.
    monkeypatch.setattr(discord.Client, "get_guild", lambda *_: None)
    monkeypatch.setattr(discord.Client, "guilds", [])
    stage.env.inject_error("GET", "/guilds/*", status=404, code=code, times=1)
    await compared(stage)
    assert not (await record(stage)).deleted


@pytest.mark.parametrize(("status", "code", "times"), [(404, 0, 3), (403, 50001, None)])
async def test_a_server_counts_as_left_once_discord_confirms_it(
    stage: Stage, status: int, code: int, times: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_DELAYS", (0.01,))
    await stage.imagine(PROMPT)
    await compared(stage)
    await away(stage)
    stage.env.inject_error("GET", "/guilds/*", status=status, code=code, times=times)
    await come_back(stage)
    await deleted(stage)


async def test_a_server_whose_removal_failed_half_way_is_removed_at_the_next_connection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.imagine(PROMPT)
    await compared(stage)
    with monkeypatch.context() as patch:
        refusing = mock.AsyncMock(side_effect=StorageError("no"))
        patch.setattr(JobStore, "delete_all", refusing)
        stage.env.backend.remove_guild(stage.guild.id)
        await stage.until(lambda: refusing.await_count)
    assert not (await record(stage)).deleted
    await compared(stage)
    assert (await record(stage)).deleted
