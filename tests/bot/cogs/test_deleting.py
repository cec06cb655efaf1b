"""Deleting and cancelling with the bot's own button, to the last byte."""

from __future__ import annotations

import asyncio
import io
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import discord
import pytest
from PIL import Image

from storage.records import Removal, Remover
from storage.states import JobStatus

from ..stage import GatedEngine, Person, Stage, button_actions, pictures
from .deletions import PROMPT, deleted, files, record


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
    assert button_actions(shown.message) == ["delete:1"]
    assert not (await record(stage)).deleted
    assert len(pictures(stage.look(message.id))) == count
    assert len(files(stage)) == count
    await stage.alice.click(shown, custom_id="delete:1")
    assert (await deleted(stage)).ended_by == Removal(Remover.OWNER)
    await stage.until(lambda: not stage.messages())
    assert files(stage) == []


async def test_confirming_a_deletion_checks_the_rights_again(stage: Stage) -> None:
    message = await stage.imagine(PROMPT)
    asked = await stage.mo.click(message, custom_id="remove:1")
    stage.env.backend.guilds[stage.guild.id].members[stage.mo.id].role_ids.clear()
    known = stage.bot.get_guild(stage.guild.id)
    assert known is not None
    result = await stage.mo.click(asked.followups[0], custom_id="delete:1")
    (told,) = result.followups
    assert told.content.startswith("Only the person who asked for this picture or a moderator")
    assert not (await record(stage)).deleted


async def test_a_deletion_by_a_moderator_is_stored_and_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="bot.jobs.service")
    message = await stage.imagine(PROMPT)
    await stage.remove(stage.mo, message)
    job = await deleted(stage)
    assert job.ended_by == Removal(Remover.MODERATOR, stage.mo.id)
    assert f"Job 1 was deleted by moderator {stage.mo.id}" in caplog.text


async def is_cancelled(stage: Stage) -> bool:
    return (await record(stage)).status is JobStatus.CANCELLED


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
    clicking = asyncio.create_task(
        person.click(stage.look(message_id), custom_id="remove:1"), name="click"
    )
    # The click ends when the engine has finished the step that it began.
    await stage.eventually(lambda: is_cancelled(stage))
    gate.open()
    assert not (await clicking).followups
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


async def test_messages_of_people_are_neither_stored_nor_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await stage.alice.send(stage.channel, f"<@{stage.bot.user.id}> imagine zyzzogeton")
    sent = await stage.alice.send(stage.channel, "zyzzogeton")
    await stage.alice.delete(sent)
    assert list(stage.bot.cached_messages) == []
    assert "zyzzogeton" not in caplog.text
    assert "Command" not in caplog.text


async def test_confirming_the_deletion_of_pictures_that_are_gone_says_so(
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
    assert button_actions(stage.look(message_id)) == ["remove:2"]
    assert not list((stage.settings.data / "pictures").rglob("*.png"))
    job = await record(stage, 2)
    assert (job.status, job.has_upload) == (JobStatus.CANCELLED, True)
    # The reaction is always there.
    await stage.alice.react(stage.look(message_id), "🔁")
    await stage.until(
        lambda: any("send it again with /vary" in m.content for m in stage.messages())
    )
    assert await stage.bot.service.jobs.record(3) is None
