"""`imagine-bot run` as its own process, where it cannot start: one sentence, no traceback."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.cli.run import CONFIG_FAULT
from generation.models.locate import starter_folder
from storage.folder.layout import DATABASE_NAME
from storage.states import JobStatus

from .rig import BotProcess, Discord
from .running import imagine_bot
from .storage.inspection import open_jobs, unfinished
from .storage.samples import new_job


@pytest.fixture
async def world() -> AsyncIterator[Discord]:
    async with Discord.start() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def refusal(bot: BotProcess, *, code: int = 1, within: float = 30.0) -> str:
    """Return the one sentence with which the bot refuses to run."""
    async with bot:
        ended = await bot.wait(within=within)
    said = [line for line in bot.output.splitlines() if "error: " in line]
    assert (ended, len(said)) == (code, 1), bot.output
    assert "Traceback" not in bot.output
    return said[0].partition("error: ")[2]


async def test_a_wrong_token_is_explained(world: Discord, data: Path) -> None:
    bot = imagine_bot(world, data)
    bot.env["DISCORD_TOKEN"] = "stolen"
    assert "copy it again from the Bot page" in await refusal(bot, code=CONFIG_FAULT)
    assert "stolen" not in bot.output


@pytest.mark.parametrize("token", [None, " "])
async def test_a_missing_token_is_asked_for(world: Discord, data: Path, token: str | None) -> None:
    bot = imagine_bot(world, data)
    bot.env.pop("DISCORD_TOKEN")
    if token is not None:
        bot.env["DISCORD_TOKEN"] = token
    said = await refusal(bot, code=CONFIG_FAULT)
    assert said.startswith("There is no Discord token; set DISCORD_TOKEN")
    assert world.requests == []


async def test_all_that_is_wrong_with_the_configuration_is_said_at_once(
    world: Discord, data: Path
) -> None:
    bot = imagine_bot(world, data, queue_limit=0, progress_seconds="often")
    bot.env["DISCORD_TOKEN"] = f"{world.token}\nOTHER=1"
    async with bot:
        assert await bot.wait() == CONFIG_FAULT
    said = [line for line in bot.output.splitlines() if line.startswith("error: ")]
    assert len(said) == len(bot.output.splitlines()) == 3, bot.output
    for words in ("QUEUE_LIMIT to '0'", "PROGRESS_SECONDS to 'often'", "has a line break inside"):
        assert words in bot.output
    assert world.token not in bot.output
    assert world.requests == []


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
async def test_the_engine_never_has_the_token_and_the_files_are_the_bots_alone(
    world: Discord, data: Path
) -> None:
    secret = data.parent / "token"
    secret.write_text(world.token)
    bot = imagine_bot(world, data)
    del bot.env["DISCORD_TOKEN"]
    bot.env |= {"DISCORD_TOKEN_FILE": str(secret), "HF_TOKEN": "a-secret-of-the-hub"}
    async with bot:
        await said(bot, "Other users may read the token in")
        await world.until(world.commands, what="the bot's commands", within=30)
        await world.until(lambda: spawned_by(bot.pid), what="the engine's process", within=30)
        [engine] = spawned_by(bot.pid)
        held = b"".join((engine / name).read_bytes() for name in ("environ", "cmdline"))
        assert b"OMP_NUM_THREADS" in held
        for secret_text in (world.token, "a-secret-of-the-hub"):
            assert secret_text.encode() not in held
        assert modes(data) == {0}


def modes(folder: Path) -> set[int]:
    """Return what others than its owner may do with a folder and all that is in it."""
    places = [folder, *folder.rglob("*")]
    assert len(places) > 3
    return {place.stat().st_mode & 0o077 for place in places}


def spawned_by(pid: int) -> list[Path]:
    """Return the folders in /proc of the engines that the bot `pid` has started."""
    children = [
        Path("/proc") / child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [child for child in children if b"spawn_main" in (child / "cmdline").read_bytes()]


async def test_two_bots_on_one_folder_are_one_too_many(world: Discord, data: Path) -> None:
    async with open_jobs(data):
        said = await refusal(imagine_bot(world, data))
    assert said == (
        f"{data} is in use by another Imagine Bot (process {os.getpid()}); stop it or choose "
        "another folder with --data."
    )
    assert world.gateway.identified == 0


async def test_a_file_in_place_of_the_data_folder_is_named(
    world: Discord,
) -> None:
    file = Path(__file__)
    said = await refusal(imagine_bot(world, file))
    assert str(file) in said
    assert "choose another folder with --data" in said


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    return folder


@pytest.mark.skipif(os.geteuid() == 0, reason="no mode stops the superuser")
async def test_a_data_folder_that_may_not_be_written_is_named(
    world: Discord, read_only_folder: Path
) -> None:
    said = await refusal(imagine_bot(world, read_only_folder))
    assert "choose another folder with --data" in said


@pytest.fixture
def shopping_list(data: Path) -> Path:
    file = data / DATABASE_NAME
    data.mkdir()
    file.write_text("my shopping list, longer than the header of a database " * 10)
    return file


async def test_a_database_that_is_none_is_refused(
    world: Discord, data: Path, shopping_list: Path
) -> None:
    assert str(shopping_list) in await refusal(imagine_bot(world, data))


async def test_without_a_network_it_waits_and_says_so_until_it_is_stopped(data: Path) -> None:
    async with Discord.start() as world:
        bot = imagine_bot(world, data)
    async with bot:
        await said(bot, "check the network. Trying again in 2 s")
        bot.terminate()
        assert await bot.wait(within=10) == 0
    assert "Traceback" not in bot.output
    assert "Unclosed" not in bot.output


async def test_a_discord_that_is_back_soon_is_waited_for(world: Discord, data: Path) -> None:
    faults = [
        world.fault("GET", "/users/@me", status=status, retry_after=0.1)
        for status in (403, 503, 429)
    ]
    async with imagine_bot(world, data) as bot:
        await world.until(world.commands, what="the bot's commands", within=30)
    assert [fault.hits for fault in faults] == [1, 1, 1]
    assert bot.output.count("Discord cannot be reached (") == 2  # discord.py waits after a 429
    assert "Unclosed" not in bot.output


async def said(bot: BotProcess, words: str, *, within: float = 30.0) -> None:
    """Wait until the bot has written `words`."""
    async with asyncio.timeout(within):
        while words not in bot.output:
            bot.check()
            await asyncio.sleep(0.05)


@pytest.fixture
async def yesterday(world: Discord, data: Path) -> None:
    """A bot of another version has published its commands, and has gone."""
    async with imagine_bot(world, data):
        await world.until(world.commands, what="the bot's commands", within=30)
    for command in world.backend.commands[None].values():
        command["description"] = "As it was yesterday"


async def test_commands_that_discord_refuses_leave_those_of_yesterday_in_force(
    world: Discord, data: Path, yesterday: None
) -> None:
    published = world.commands()
    world.fault("PUT", "/applications/*/commands", status=400, times=99)
    async with imagine_bot(world, data) as bot:
        await bot.ready()
        answer = await (await world.slash("imagine", prompt="rabbit face")).answered()
        assert answer.kind == "message"
    assert world.commands() == published
    assert "Discord refused the commands (400" in bot.output
    assert "these stay in force: /imagine" in bot.output


async def test_commands_that_discord_has_no_time_for_are_published_later(
    world: Discord, data: Path
) -> None:
    world.fault("PUT", "/applications/*/commands", status=503, times=1)
    async with imagine_bot(world, data) as bot:
        await said(bot, "Discord refused the commands (503")
        await said(bot, "they are published later")
        await world.until(world.commands, what="the bot's commands", within=60)


async def test_commands_refused_for_good_where_there_are_none_are_quoted(
    world: Discord, data: Path
) -> None:
    world.fault("PUT", "/applications/*/commands", status=400, times=99)
    words = await refusal(imagine_bot(world, data))
    assert words.startswith("Discord refused the commands (400")
    assert world.gateway.identified == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_during_start_up_is_obeyed_at_once(
    world: Discord, data: Path, number: signal.Signals
) -> None:
    hold = world.hold("PUT", "/applications/*/commands")
    async with imagine_bot(world, data) as bot:
        await hold.reached()
        bot.terminate(number)
        assert await bot.wait(within=15) == 0
    assert "Traceback" not in bot.output
    async with open_jobs(data):
        pass


async def test_a_model_that_cannot_be_loaded_costs_no_session_and_loses_no_job(
    world: Discord, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "broken"
    shutil.copytree(starter_folder(), model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    async with open_jobs(data) as jobs:
        before = await jobs.add(new_job(channel_id=world.channel.id, guild_id=world.guild.id))

    said = await refusal(imagine_bot(world, data, model=model), within=60)
    assert "unet" in said
    assert world.gateway.identified == 0
    async with open_jobs(data) as jobs:
        [left] = await unfinished(jobs)
    assert (left.id, left.status) == (before.id, JobStatus.QUEUED)
