"""`imagine-bot run` as its own process, where it cannot start: one sentence, no traceback."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from generation.locate import starter_folder
from storage.opening import DATABASE_NAME, open_storage
from storage.records import JobStatus

from .rig import BotProcess, Discord
from .running import imagine_bot
from .storage.samples import new_job


@pytest.fixture
async def world() -> AsyncIterator[Discord]:
    async with Discord.start() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def refusal(bot: BotProcess, *, within: float = 30.0) -> str:
    """Return the one sentence with which the bot refuses to run."""
    async with bot:
        code = await bot.wait(within=within)
    said = [line for line in bot.output.splitlines() if "error: " in line]
    assert (code, len(said)) == (1, 1), bot.output
    assert "Traceback" not in bot.output
    return said[0].partition("error: ")[2]


async def test_a_wrong_token_is_explained(world: Discord, data: Path) -> None:
    bot = imagine_bot(world, data)
    bot.env["DISCORD_TOKEN"] = "stolen"
    assert "copy it again from the Bot page" in await refusal(bot)
    assert "stolen" not in bot.output


@pytest.mark.parametrize("token", [None, " "])
async def test_a_missing_token_is_asked_for(world: Discord, data: Path, token: str | None) -> None:
    bot = imagine_bot(world, data)
    bot.env.pop("DISCORD_TOKEN")
    if token is not None:
        bot.env["DISCORD_TOKEN"] = token
    assert (await refusal(bot)).startswith("There is no Discord token; set DISCORD_TOKEN")
    assert world.requests == []


async def test_two_bots_on_one_folder_are_one_too_many(world: Discord, data: Path) -> None:
    async with open_storage(data):
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


async def test_without_discord_it_says_that_the_network_is_at_fault(data: Path) -> None:
    async with Discord.start() as world:
        bot = imagine_bot(world, data)
    assert "check the network" in await refusal(bot)


async def test_a_discord_that_refuses_the_commands_is_quoted(world: Discord, data: Path) -> None:
    world.fault("PUT", "/applications/*/commands", status=503)
    assert "503" in await refusal(imagine_bot(world, data))


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
    async with open_storage(data):
        pass


async def test_a_model_that_cannot_be_loaded_stops_the_bot_and_no_job_is_lost(
    world: Discord, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "broken"
    shutil.copytree(starter_folder(), model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    async with open_storage(data) as jobs:
        before = await jobs.add(new_job(channel_id=world.channel.id, guild_id=world.guild.id))

    async with imagine_bot(world, data, model=model) as bot:
        await bot.ready()
        asked = await (await world.slash("imagine", prompt="rabbit face")).answered()
        assert asked.kind == "message"
        assert await bot.wait(within=60) == 1
    [said] = [line for line in bot.output.splitlines() if "error: " in line]
    assert "unet" in said
    assert "Traceback" not in bot.output
    async with open_storage(data) as jobs:
        left = await jobs.unfinished()
    assert [(job.status, job.message_id) for job in left] == [
        (JobStatus.QUEUED, None),
        (JobStatus.QUEUED, asked.message and asked.message.id),
    ]
    assert left[0].id == before.id
