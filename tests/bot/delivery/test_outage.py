"""Where finished pictures are while Discord is out of reach for long."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import discord
import pytest
from discord.http import HTTPClient

from bot.delivery import retry
from bot.jobs.courier_protocol import Picture
from bot.memory import PictureMemory
from bot.ui.attachments import Attachment, is_finished
from generation.images.png import read_png
from generation.values.recipe import GeneratedImage
from storage.states import JobStatus

from ...storage.inspection import counts
from ..stage import Stage

SEEDS = (3, 8, 20)
# Of two pictures of 128 pixels and those that are shown, enlarged twice in both directions.
BYTES = 2 * (1 + 4) * 3 * 128 * 128
OUTAGE = ("PATCH", "/channels/*/messages/*")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_DELAYS", (0.5,))


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[discord.File]:
    """Return all files that were made to be sent."""
    files: list[discord.File] = []
    make = Attachment.file

    def noted(attachment: Attachment) -> discord.File:
        files.append(make(attachment))
        return files[-1]

    monkeypatch.setattr(Attachment, "file", noted)
    return files


def held() -> int:
    """Return how many objects there are that hold the bytes of finished pictures."""
    gc.collect()
    # Not by `isinstance`, which some lazy modules take for a use of them.
    kinds = (GeneratedImage, Picture, Attachment)
    return sum(type(thing) in kinds for thing in gc.get_objects())


async def ask(stage: Stage) -> list[int]:
    """Have Alice ask for two pictures of each seed; return the messages that answer her."""
    answers = [
        await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", seed=seed, count=2)
        for seed in SEEDS
    ]
    return [answer.response.id for answer in answers]


async def generated(stage: Stage) -> None:
    """Wait until the pictures of all jobs are on disk and none are delivered."""
    jobs = stage.bot.service.jobs

    async def are_generated() -> bool:
        return (await counts(jobs))[JobStatus.GENERATED] == len(SEEDS)

    await stage.eventually(are_generated)


async def assert_delivered(stage: Stage, messages: list[int]) -> None:
    for message, seed in zip(messages, SEEDS, strict=True):
        files = (await stage.finished(message)).attachments
        assert [read_png(await file.read())[1].seed for file in files] == [seed, seed + 1]
    assert len(stage.messages()) == len(SEEDS)


async def test_pictures_that_wait_for_discord_are_held_nowhere_in_memory(
    stage: Stage, lent: list[discord.File], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that all wait at one time, and for longer than it takes to look for what is held.
    monkeypatch.setattr(retry, "_DELAYS", (6,))
    before = held()
    stage.env.inject_error(*OUTAGE, status=503, times=None)
    messages = await ask(stage)
    await generated(stage)
    await stage.until(lambda: held() <= before)
    stage.env.backend.faults.clear()
    await assert_delivered(stage, messages)
    await stage.until(lambda: not stage.bot.service._under_way)
    # Each attempt had its own; discord.py leaves them in cycles, where they could stay for long.
    sent = [file for file in lent if is_finished([file.filename])]
    assert len(sent) > 2 * len(SEEDS)
    assert all(file.fp.closed for file in sent)


async def test_only_a_few_deliveries_hold_their_pictures_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = HTTPClient.edit_message
    answers = asyncio.Event()
    uploading, most = 0, 0

    async def late(http: HTTPClient, *where: int, params: Any) -> Any:
        nonlocal uploading, most
        if not is_finished(file.filename for file in params.files or ()):
            return await edit(http, *where, params=params)
        uploading += 1
        most = max(most, uploading)
        await answers.wait()
        uploading -= 1
        return await edit(http, *where, params=params)

    monkeypatch.setattr(HTTPClient, "edit_message", late)
    # Room for two messages of this size, all of them of one person.
    stage.bot.courier._memory = PictureMemory(4 * 2 * BYTES)
    messages = await ask(stage)
    await generated(stage)
    await asyncio.sleep(0.5)
    assert uploading == 2
    answers.set()
    await assert_delivered(stage, messages)
    assert most == 2


async def test_pictures_that_are_removed_while_they_wait_for_discord_are_never_shown(
    stage: Stage,
) -> None:
    stage.env.inject_error(*OUTAGE, status=503, times=None)
    messages = await ask(stage)
    await generated(stage)
    for message in messages:
        job = await stage.bot.service.shown_in(message)
        assert job is not None
        await stage.bot.service.cancel_or_remove(job)
    await stage.until(lambda: not stage.bot.service._under_way)
    assert stage.messages() == []
    assert await stage.bot.service.jobs.deleted_with_message() == []
