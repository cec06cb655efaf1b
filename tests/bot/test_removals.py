"""What is gone from Discord, by whatever means, is gone here as well, to the last byte."""

from __future__ import annotations

import asyncio
import io
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import discord
import pytest
import simcord
from PIL import Image

from bot import delivery
from bot.client import INTENTS, create_bot
from bot.requests import Wishes
from storage.database import Database
from storage.errors import DatabaseBusy, DiskFull, StorageError
from storage.jobs import JobStore
from storage.records import Job, JobKind, JobStatus, NewJob, Removal, Remover

from .stage import GatedEngine, Person, Stage, deeds, pictures

PROMPT = "zyzzogeton rabbit"
MESSAGE = "/channels/*/messages/*"


def files(stage: Stage) -> list[Path]:
    return [path for path in (stage.settings.data / "pictures").rglob("*") if path.is_file()]


async def record(stage: Stage, job_id: int = 1) -> Job:
    job = await stage.bot.service.jobs.record(job_id)
    assert job is not None
    return job


async def deleted(stage: Stage, job_id: int = 1) -> Job:
    """Wait until a job is deleted, and return what is left of it."""

    async def is_deleted() -> bool:
        return (await record(stage, job_id)).deleted

    await stage.eventually(is_deleted, seconds=10)
    return await record(stage, job_id)


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


async def picture_in(
    stage: Stage, channel: simcord.ChannelHandle, who: Person | None = None
) -> None:
    await (who or stage.alice).slash(channel, "imagine", prompt=PROMPT)
    await stage.until(lambda: [m for m in channel.history() if pictures(m)])


def test_the_bot_hears_of_deleted_messages_and_keeps_no_messages_of_others(stage: Stage) -> None:
    assert INTENTS.guild_messages
    assert INTENTS.dm_messages
    privileged = discord.Intents(message_content=True, members=True, presences=True)
    assert not INTENTS & privileged
    assert stage.bot._connection.max_messages is None
    assert not stage.bot.cached_messages


async def test_a_message_that_a_moderator_deletes_takes_its_picture_along(stage: Stage) -> None:
    message = await stage.imagine(PROMPT)
    kept = await stage.imagine("red apple")
    await stage.mo.delete(message)
    job = await deleted(stage)
    assert job.ended_by == Removal(Remover.DISCORD)
    assert await is_shown_nowhere(stage)
    assert len(files(stage)) == 1
    assert [seen.id for seen in stage.messages()] == [kept.id]
    assert not await stage.bot.service.jobs.not_removed()


async def test_messages_that_are_deleted_together_take_their_pictures_along(stage: Stage) -> None:
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


async def test_a_deleted_channel_takes_its_pictures_along_with_those_of_its_threads(
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
    """A thread with a picture, of which discord.py knows nothing any more."""
    thread = await thread_with_picture(stage)
    known = stage.bot.get_channel(thread.id)
    assert isinstance(known, discord.Thread)
    await known.edit(archived=True)
    await stage.until(lambda: stage.bot.get_channel(thread.id) is None)
    return thread


@pytest.mark.parametrize("trouble", [None, 503, 404])
async def test_a_deleted_channel_takes_along_what_is_in_threads_that_were_archived(
    stage: Stage,
    archived: simcord.ChannelHandle,
    trouble: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "_RETRY_SECONDS", (0.01,))
    elsewhere = stage.guild.create_text_channel("owls")
    await picture_in(stage, elsewhere)
    if trouble is not None:
        stage.env.inject_error("GET", f"/channels/{archived.id}", status=trouble, code=0, times=2)
    # SimCord does not delete the threads of a channel; Discord does, and says nothing of these.
    stage.env.backend.channels.pop(archived.id)
    stage.env.backend.guilds[stage.guild.id].thread_ids.remove(archived.id)
    stage.env.backend.delete_channel(stage.channel.id)
    await deleted(stage)
    assert not (await record(stage, 2)).deleted


@pytest.mark.parametrize("denied", [True, False])
async def test_what_is_in_other_threads_that_were_archived_stays(
    stage: Stage, archived: simcord.ChannelHandle, denied: bool
) -> None:
    if denied:
        path = f"/channels/{archived.id}"
        stage.env.inject_error("GET", path, status=403, code=50001, times=None)
    stage.env.backend.delete_channel(stage.guild.create_text_channel("owls").id)
    asked = stage.bot.service._background._tasks
    await stage.until(lambda: not any("deletion" in task.get_name() for task in asked))
    await stage.env.settle()
    assert not (await record(stage)).deleted


async def test_a_deleted_thread_takes_its_pictures_along(stage: Stage) -> None:
    await stage.imagine("red apple")
    thread = await thread_with_picture(stage)
    stage.env.backend.delete_channel(thread.id)
    await deleted(stage, 2)
    assert await is_shown_nowhere(stage, "2-1")
    assert not (await record(stage, 1)).deleted


async def test_a_server_that_the_bot_left_takes_its_pictures_along(stage: Stage) -> None:
    await stage.imagine(PROMPT)
    elsewhere = stage.env.create_guild("Owls")
    channel = elsewhere.create_text_channel("pictures")
    member = elsewhere.add_member(stage.env.create_user("carol"))
    await picture_in(stage, channel, Person(stage.env, elsewhere, member.user))
    stage.env.backend.remove_guild(elsewhere.id)
    assert (await deleted(stage, 2)).guild_id is None
    assert not (await record(stage, 1)).deleted
    assert len(files(stage)) == 1


async def test_an_outage_of_a_server_takes_nothing_away(stage: Stage) -> None:
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


async def noted(stage: Stage) -> list[int]:
    """Return the servers that the bot is known to be in."""
    user = stage.bot.user
    assert user is not None
    return await stage.bot.service.jobs.missing_guilds(user.id, [])


async def compared(stage: Stage) -> None:
    """Have the bot compare its servers, as it does at each connection."""
    await stage.bot.on_ready()
    tasks = [task for task in stage.bot._background._tasks if "look for" in task.get_name()]
    assert tasks
    await asyncio.wait(tasks)


async def test_a_server_that_the_bot_left_while_it_was_away_takes_its_pictures_along(
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
        return await noted(stage) == []

    await stage.eventually(is_forgotten)


async def test_a_server_that_the_bot_joins_is_remembered(stage: Stage) -> None:
    known = stage.bot.get_guild(stage.env.create_guild("Owls").id)
    assert known is not None
    # SimCord calls every server one that was there before.
    stage.bot.dispatch("guild_join", known)

    async def is_known() -> bool:
        return known.id in await noted(stage)

    await stage.eventually(is_known)


@pytest.mark.parametrize(("status", "code"), [(404, 10004), (403, 50001)])
async def test_a_server_with_an_outage_loses_nothing_when_the_bot_comes_back(
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
    assert await noted(stage) == [stage.guild.id]


@pytest.mark.parametrize("code", [10004, 0])
async def test_a_server_is_not_left_for_one_answer(
    stage: Stage, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_RETRY_SECONDS", (0.01,))
    await stage.imagine(PROMPT)
    await compared(stage)
    # The connection names no server, and Discord's first answer is wrong too.
    monkeypatch.setattr(discord.Client, "get_guild", lambda *_: None)
    monkeypatch.setattr(discord.Client, "guilds", [])
    stage.env.inject_error("GET", "/guilds/*", status=404, code=code, times=1)
    await compared(stage)
    assert not (await record(stage)).deleted


@pytest.mark.parametrize(("status", "code", "times"), [(404, 0, 3), (403, 50001, None)])
async def test_a_server_is_left_once_discord_says_so_in_its_own_words(
    stage: Stage, status: int, code: int, times: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_RETRY_SECONDS", (0.01,))
    await stage.imagine(PROMPT)
    await compared(stage)
    await away(stage)
    stage.env.inject_error("GET", "/guilds/*", status=status, code=code, times=times)
    await come_back(stage)
    await deleted(stage)


@pytest.mark.parametrize("what", ["channel", "guild"])
async def test_what_cannot_be_written_while_it_is_deleted_is_tried_again(
    stage: Stage, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.room._PAUSES", (0.01,))
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


async def test_what_was_about_to_be_made_is_not_made_once_its_message_is_deleted(
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
async def test_what_was_deleted_while_the_bot_was_away_is_found_when_it_is_asked_for(
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
    monkeypatch.setattr("bot.presence._SECONDS", 0.2)
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
    noted: list[str] = []

    def note(name: str) -> None:
        use = getattr(Database, name)

        async def noting(db: Database, fn: Callable[[Any], Any]) -> Any:
            noted.append(name)
            return await use(db, fn)

        monkeypatch.setattr(Database, name, noting)

    for name in ("run", "read"):
        note(name)
    return noted


async def unannounced(stage: Stage) -> Job:
    """Have a job accepted of whose message nothing is known yet."""
    order = NewJob(
        kind=JobKind.IMAGINE,
        user_id=stage.alice.id,
        guild_id=stage.guild.id,
        channel_id=stage.channel.id,
        request=stage.bot.desk.imagine(Wishes(prompt=PROMPT)),
    )
    return await stage.bot.service.submit(order)


async def test_deleted_messages_of_others_cost_one_look_and_wait_for_no_other_channel(
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
async def test_a_message_that_is_deleted_while_it_is_being_sent_takes_its_job_along(
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


@pytest.mark.parametrize(
    ("count", "question"), [(1, "Delete 1 picture?"), (2, "Delete 2 pictures?")]
)
async def test_finished_pictures_are_deleted_only_after_a_private_question(
    stage: Stage, count: int, question: str
) -> None:
    message = await stage.imagine(PROMPT, count=count)
    asked = await stage.alice.click(message, custom_id="remove:1")
    (shown,) = asked.followups
    assert shown.ephemeral
    assert shown.content == question
    assert deeds(shown.message) == ["delete:1"]
    assert not (await record(stage)).deleted
    assert len(pictures(stage.look(message.id))) == count
    assert len(files(stage)) == count
    await stage.alice.click(shown, custom_id="delete:1")
    assert (await deleted(stage)).ended_by == Removal(Remover.OWNER)
    await stage.until(lambda: not stage.messages())
    assert files(stage) == []


async def test_who_was_asked_may_no_longer_delete_without_the_right_to(stage: Stage) -> None:
    message = await stage.imagine(PROMPT)
    asked = await stage.mo.click(message, custom_id="remove:1")
    stage.env.backend.guilds[stage.guild.id].members[stage.mo.id].role_ids.clear()
    known = stage.bot.get_guild(stage.guild.id)
    assert known is not None
    result = await stage.mo.click(asked.followups[0], custom_id="delete:1")
    (told,) = result.followups
    assert told.content.startswith("Only the person who asked for this picture or a moderator")
    assert not (await record(stage)).deleted


async def test_a_moderator_who_deletes_is_kept_and_named_in_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="bot.service")
    message = await stage.imagine(PROMPT)
    await stage.remove(stage.mo, message)
    job = await deleted(stage)
    assert job.ended_by == Removal(Remover.MODERATOR, stage.mo.id)
    assert f"Job 1 was deleted by moderator {stage.mo.id}" in caplog.text


@pytest.mark.parametrize(
    ("who", "words"),
    [("alice", "\ncancelled · job 1"), ("mo", "\ncancelled by a moderator · job 1")],
)
async def test_cancelling_needs_no_question_and_the_message_says_if_a_moderator_did_it(
    stage: Stage, gate: GatedEngine, who: str, words: str
) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt=PROMPT)
    assert result.response is not None
    message_id = result.response.id
    person: Person = getattr(stage, who)
    clicked = await person.click(stage.look(message_id), custom_id="remove:1")
    assert not clicked.followups
    # A step that the engine has begun is finished first.
    gate.open()
    await stage.until(lambda: words in stage.look(message_id).content)
    assert (await record(stage)).status is JobStatus.CANCELLED


def traces(folder: Path, person: int) -> list[str]:
    """Return the files that hold a word of the prompt or the person's id, in any form."""
    secrets = (b"zyzzogeton", str(person).encode(), person.to_bytes(8, "big"))
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
    ]


def by_button(stage: Stage) -> Callable[[discord.Message], Any]:
    return lambda message: stage.remove(stage.alice, message)


def by_discord(stage: Stage) -> Callable[[discord.Message], Any]:
    return stage.mo.delete


@pytest.mark.parametrize("means", [by_button, by_discord])
async def test_no_byte_of_a_deleted_picture_is_left_while_the_bot_runs_or_after_it(
    stage: Stage, means: Callable[[Stage], Callable[[discord.Message], Any]]
) -> None:
    folder, alice = stage.settings.data, stage.alice.id
    message = await stage.imagine(PROMPT)
    bobs = await stage.bob.slash(stage.channel, "imagine", prompt="red apple")
    assert bobs.response is not None
    await stage.finished(bobs.response.id)
    assert traces(folder, alice)
    await means(stage)(message)
    await deleted(stage)
    await stage.until(lambda: not traces(folder, alice), seconds=10)
    assert traces(folder, stage.bob.id)
    await stage.bot.close()
    assert traces(folder, alice) == []


async def test_what_people_write_is_neither_kept_nor_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await stage.alice.send(stage.channel, f"<@{stage.bot.user.id}> imagine zyzzogeton")
    sent = await stage.alice.send(stage.channel, "zyzzogeton")
    await stage.alice.delete(sent)
    assert list(stage.bot.cached_messages) == []
    assert "zyzzogeton" not in caplog.text
    assert "Command" not in caplog.text


async def test_a_question_about_pictures_that_are_gone_meanwhile_is_answered_so(
    stage: Stage,
) -> None:
    message = await stage.imagine("rabbit face")
    asked = await stage.alice.click(message, custom_id="remove:1")
    await stage.mo.delete(message)
    await deleted(stage)
    late = await stage.alice.click(asked.followups[0], custom_id="delete:1")
    assert late.followups[0].content.startswith("There is no picture 1")


async def test_uploads_of_cancelled_jobs_are_kept_nowhere_and_cannot_be_run_again(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    await stage.bob.slash(stage.channel, "imagine", prompt="cat face")
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (96, 96), random.Random(1).randbytes(3 * 96 * 96))
    picture.save(file, "PNG")
    result = await stage.alice.slash(
        stage.channel, "vary", attachment=("a.png", file.getvalue()), prompt="x"
    )
    assert list((stage.settings.data / "pictures").rglob("*.png"))
    message_id = result.response.id
    await stage.alice.react(stage.look(message_id), "❌")
    await stage.until(lambda: "cancelled ·" in stage.look(message_id).content)
    assert deeds(stage.look(message_id)) == ["remove:2"]
    assert not list((stage.settings.data / "pictures").rglob("*.png"))
    job = await record(stage, 2)
    assert (job.status, job.has_upload) == (JobStatus.CANCELLED, True)
    # The reaction is always there.
    await stage.alice.react(stage.look(message_id), "🔁")
    await stage.until(
        lambda: any("send it again with /vary" in m.content for m in stage.messages())
    )
    assert await stage.bot.service.jobs.record(3) is None
