"""What is deleted in Discord is deleted here as well: messages, channels and threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import discord
import pytest
import simcord

from bot.client import INTENTS, create_bot
from bot.requests.options import RequestOptions
from storage.database import Database
from storage.errors import DatabaseBusy, DiskFull, StorageError
from storage.jobs import JobStore
from storage.records import Job, JobKind, NewJob, Removal, Remover
from storage.states import JobStatus

from ..stage import GatedEngine, Stage
from .deletions import PROMPT, deleted, files, picture_in, record

MESSAGE = "/channels/*/messages/*"


async def is_shown_nowhere(stage: Stage, image: str = "1-1") -> bool:
    """Return whether neither /vary nor /history knows a picture of Alice's."""
    vary = await stage.alice.slash(stage.channel, "vary", image=image)
    history = await stage.alice.slash(stage.channel, "history", search="zyzzogeton")
    return (
        f"There is no picture {image}" in vary.response.content
        and "None of your pictures match" in history.response.content
    )


async def thread_with_picture(stage: Stage) -> simcord.ChannelHandle:
    channel = stage.bot.get_channel(stage.channel.id)
    assert isinstance(channel, discord.TextChannel)
    made = await channel.create_thread(name="owls", type=discord.ChannelType.public_thread)
    (thread,) = [thread for thread in stage.channel.threads if thread.id == made.id]
    await picture_in(stage, thread)
    return thread


def test_the_bot_receives_deletions_and_caches_no_messages(stage: Stage) -> None:
    assert INTENTS.guild_messages
    assert INTENTS.dm_messages
    privileged = discord.Intents(message_content=True, members=True, presences=True)
    assert not INTENTS & privileged
    assert stage.bot._connection.max_messages is None
    assert not stage.bot.cached_messages


async def test_deleting_a_message_in_discord_deletes_its_picture(stage: Stage) -> None:
    message = await stage.imagine(PROMPT)
    kept = await stage.imagine("red apple")
    await stage.mo.delete(message)
    job = await deleted(stage)
    assert job.ended_by == Removal(Remover.DISCORD)
    assert await is_shown_nowhere(stage)
    assert len(files(stage)) == 1
    assert [seen.id for seen in stage.messages()] == [kept.id]
    assert not await stage.bot.service.jobs.deleted_with_message()


async def test_deleting_several_messages_in_discord_deletes_their_pictures(stage: Stage) -> None:
    gone = [await stage.imagine(PROMPT), await stage.imagine(PROMPT, count=2)]
    await stage.imagine("red apple")
    others = [7, 8, 9]
    stage.env.backend.bulk_delete_messages(
        stage.channel.id, [*others, *(message.id for message in gone)]
    )
    for job_id in (1, 2):
        assert (await deleted(stage, job_id)).ended_by == Removal(Remover.DISCORD)
    assert await is_shown_nowhere(stage, "2-2")
    assert len(files(stage)) == 1
    assert not (await record(stage, 3)).deleted


async def test_deleting_a_channel_deletes_its_pictures_and_those_of_its_threads(
    stage: Stage,
) -> None:
    other = stage.guild.create_text_channel("owls")
    await picture_in(stage, other)
    thread = await thread_with_picture(stage)
    await picture_in(stage, stage.channel, stage.bob)
    stage.env.backend.delete_channel(other.id)
    await deleted(stage, 1)
    assert not (await record(stage, 2)).deleted
    stage.env.backend.delete_channel(stage.channel.id)
    await deleted(stage, 2)
    await deleted(stage, 3)
    assert thread.id != stage.channel.id
    await stage.until(lambda: not files(stage))


@pytest.fixture
async def archived(stage: Stage) -> simcord.ChannelHandle:
    """Return an archived thread with a picture; discord.py has dropped the thread."""
    thread = await thread_with_picture(stage)
    known = stage.bot.get_channel(thread.id)
    assert isinstance(known, discord.Thread)
    await known.edit(archived=True)
    await stage.until(lambda: stage.bot.get_channel(thread.id) is None)
    return thread


@pytest.mark.parametrize("status", [None, 503, 404])
async def test_deleting_a_channel_deletes_the_pictures_of_its_archived_threads(
    stage: Stage,
    archived: simcord.ChannelHandle,
    status: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bot.delivery.retry._DELAYS", (0.01,))
    elsewhere = stage.guild.create_text_channel("owls")
    await picture_in(stage, elsewhere)
    if status is not None:
        stage.env.inject_error("GET", f"/channels/{archived.id}", status=status, code=0, times=2)
    # SimCord does not delete the threads of a channel. Discord does, and reports no archived ones.
    stage.env.backend.channels.pop(archived.id)
    stage.env.backend.guilds[stage.guild.id].thread_ids.remove(archived.id)
    stage.env.backend.delete_channel(stage.channel.id)
    await deleted(stage)
    assert not (await record(stage, 2)).deleted


@pytest.mark.parametrize("denied", [True, False])
async def test_deleting_a_channel_keeps_the_pictures_of_other_archived_threads(
    stage: Stage, archived: simcord.ChannelHandle, denied: bool
) -> None:
    if denied:
        path = f"/channels/{archived.id}"
        stage.env.inject_error("GET", path, status=403, code=50001, times=None)
    stage.env.backend.delete_channel(stage.guild.create_text_channel("owls").id)
    tasks = stage.bot.service._background._tasks
    await stage.until(lambda: not any("deletion" in task.get_name() for task in tasks))
    await stage.env.settle()
    assert not (await record(stage)).deleted


async def test_deleting_a_thread_deletes_its_pictures(stage: Stage) -> None:
    await stage.imagine("red apple")
    thread = await thread_with_picture(stage)
    stage.env.backend.delete_channel(thread.id)
    await deleted(stage, 2)
    assert await is_shown_nowhere(stage, "2-1")
    assert not (await record(stage, 1)).deleted


@pytest.mark.parametrize("what", ["channel", "guild"])
async def test_a_deletion_that_cannot_be_stored_is_retried(
    stage: Stage, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.jobs.disk._DELAYS", (0.01,))
    await stage.imagine(PROMPT)
    faults: list[StorageError] = [DiskFull(Path("x")), DatabaseBusy(Path("x"))]
    delete_all = JobStore.delete_all

    async def failing(*args: Any, **options: Any) -> int:
        if faults:
            raise faults.pop()
        return await delete_all(*args, **options)

    monkeypatch.setattr(JobStore, "delete_all", failing)
    if what == "channel":
        stage.env.backend.delete_channel(stage.channel.id)
    else:
        stage.env.backend.remove_guild(stage.guild.id)
    await deleted(stage)
    assert not faults


async def test_deleting_the_message_of_a_waiting_job_cancels_the_job(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    running = await stage.alice.slash(stage.channel, "imagine", prompt=PROMPT)
    waiting = await stage.bob.slash(stage.channel, "imagine", prompt="red apple")
    for result in (running, waiting):
        assert result.response is not None
        await stage.mo.delete(result.response)
    for job_id in (1, 2):
        assert (await deleted(stage, job_id)).status is JobStatus.CANCELLED
    gate.open()
    assert await stage.imagine("rabbit face")
    assert len(files(stage)) == 1
    assert len(stage.messages()) == 1


@pytest.mark.parametrize("command", ["vary", "history"])
async def test_a_message_deleted_while_offline_is_noticed_when_its_picture_is_used(
    stage: Stage, command: str
) -> None:
    message = await stage.imagine(PROMPT)
    await stage.bot.close()
    del stage.env.backend.messages[stage.channel.id][message.id]
    await stage.env.restart_bot(create_bot(stage.settings, make_engine=stage.make_engine))
    options = {"image": "1-1"} if command == "vary" else {"search": "zyzzogeton"}
    result = await stage.alice.slash(stage.channel, command, **options)
    told = [result.response, *result.followups]
    assert any("There is no picture 1" in answer.content for answer in told if answer)
    assert (await record(stage)).deleted
    assert files(stage) == []


@pytest.mark.parametrize(("status", "code"), [(404, 0), (403, 50001), (403, 0), (500, 0)])
async def test_an_answer_that_does_not_say_that_a_message_is_gone_deletes_nothing(
    stage: Stage, status: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.delivery.presence._TIMEOUT_SECONDS", 0.2)
    await stage.imagine(PROMPT)
    stage.env.inject_error("GET", MESSAGE, status=status, code=code, times=None)
    result = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert result.response is not None
    assert (await stage.finished(result.response.id)).attachments
    assert not (await record(stage)).deleted


async def test_one_answer_that_a_message_is_gone_deletes_nothing(stage: Stage) -> None:
    await stage.imagine(PROMPT)
    stage.env.inject_error("GET", MESSAGE, status=404, code=10008, times=1)
    result = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert result.response is not None
    assert (await stage.finished(result.response.id)).attachments
    assert not (await record(stage)).deleted


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return how the database was used: "run" for each transaction that writes, and "read"."""
    missing_guilds: list[str] = []

    def note(name: str) -> None:
        use = getattr(Database, name)

        async def noting(db: Database, fn: Callable[[Any], Any]) -> Any:
            missing_guilds.append(name)
            return await use(db, fn)

        monkeypatch.setattr(Database, name, noting)

    for name in ("run", "read"):
        note(name)
    return missing_guilds


async def unannounced(stage: Stage) -> Job:
    """Have a job accepted of whose message nothing is known yet."""
    new = NewJob(
        kind=JobKind.IMAGINE,
        user_id=stage.alice.id,
        guild_id=stage.guild.id,
        channel_id=stage.channel.id,
        request=stage.bot.offer.default.builder.imagine(
            RequestOptions(prompt=PROMPT), guild_id=None
        ),
    )
    return await stage.bot.service.submit(new)


async def test_deleted_messages_of_others_cost_one_query_and_wait_for_no_other_channel(
    stage: Stage, gate: GatedEngine, uses: list[str]
) -> None:
    gate.shut()
    job = await unannounced(stage)
    other = stage.guild.create_text_channel("owls")
    await asyncio.sleep(0.1)
    uses.clear()
    began = time.monotonic()
    await stage.bot.service.removals.messages_gone([7], other.id)
    assert uses == ["read"]
    await stage.bot.service.removals.messages_gone(range(1, 101), other.id)
    assert uses == ["read", "read"]
    assert time.monotonic() - began < 1
    assert not (await record(stage, job.id)).deleted
    gate.open()
    await stage.bot.service.announced(job, None)


@pytest.mark.parametrize("others", [[], [7, 8]])
async def test_deleting_a_message_that_is_being_sent_deletes_its_job(
    stage: Stage, gate: GatedEngine, others: list[int]
) -> None:
    gate.shut()
    job = await unannounced(stage)
    deleting = asyncio.create_task(
        stage.bot.service.removals.messages_gone([*others, 4711], stage.channel.id)
    )
    await asyncio.sleep(0.1)
    assert not deleting.done()
    await stage.bot.service.announced(job, 4711)
    await deleting
    assert (await record(stage, job.id)).status is JobStatus.CANCELLED
    assert (await record(stage, job.id)).deleted
    gate.open()
