"""Answers that are not Discord's own, or that a second request corrects, for each request."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

import discord
import pytest

from bot.delivery import codes, retry
from bot.delivery.channels import message_of
from generation.values.events import Progress
from generation.values.pixels import Pixels
from storage.records import Job
from storage.states import JobStatus

from ...storage.inspection import counts
from ..stage import GatedEngine, Stage, pictures

# Status and code: of a proxy on the way, of Cloudflare, or one that nobody knows.
STRAY = ((404, 0), (403, 0), (408, 0), (400, 0), (403, 40333), (404, 999_999), (503, 0))
MESSAGE = "/channels/*/messages/*"
MESSAGES = "/channels/*/messages"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_DELAYS", (0.01,))
    # The least pauses of the table have their own test.
    rows = {code: dataclasses.replace(row, pause=0) for code, row in codes._BY_CODE.items()}
    monkeypatch.setattr(codes, "_BY_CODE", rows)


Strike = Callable[[str, str], Iterator[None]]


class Struck:
    """A job that waits behind the gate, and Discord's answers about it."""

    def __init__(self, stage: Stage, job: Job) -> None:
        self.stage, self.job, self.courier = stage, job, stage.bot.courier
        assert job.message_id is not None
        self.message_id = job.message_id

    @property
    def content(self) -> str:
        return self.stage.look(self.message_id).content

    def each(self, method: str, path: str) -> Iterator[None]:
        """Let the next two requests that fit get a stray answer, once for each kind of it."""
        for status, code in STRAY:
            self.stage.env.inject_error(method, path, status=status, code=code, times=2)
            yield
            assert not self.stage.env.backend.faults


@pytest.fixture
async def struck(stage: Stage, gate: GatedEngine) -> Struck:
    gate.shut()
    await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    stage.bot.courier._progress.show = lambda *_: None  # type: ignore[method-assign]

    async def announced() -> Job | None:
        job = await stage.bot.service.jobs.get(1)
        return job if job is not None and job.message_id is not None else None

    job = await stage.eventually(announced)
    assert job is not None
    return Struck(stage, job)


async def test_a_message_is_found_all_the_same(struck: Struck) -> None:
    for _ in struck.each("GET", MESSAGES):
        assert await struck.courier.find(struck.job) == struck.message_id


async def test_a_message_is_posted_once(struck: Struck) -> None:
    await struck.courier.remove(struck.job, struck.message_id)
    for _ in struck.each("POST", MESSAGES):
        posted = await struck.courier.post(struck.job)
        assert [message.id for message in struck.stage.messages()] == [posted]
        await struck.courier.remove(struck.job, posted)


async def test_whatever_is_said_in_a_message_is_said(struck: Struck) -> None:
    courier, job, message_id = struck.courier, struck.job, struck.message_id
    sayings: dict[str, Callable[[], Awaitable[None]]] = {
        "My disk cannot store": lambda: courier.report_wait(job, message_id),
        "It broke.": lambda: courier.report_failure(job, message_id, "It broke."),
        "cancelled": lambda: courier.report_cancellation(job, message_id),
    }
    for words, say in sayings.items():
        for _ in struck.each("PATCH", MESSAGE):
            assert words not in struck.content
            await say()
            assert words in struck.content
            await message_of(struck.stage.bot, job, message_id).edit(content="-")


async def test_a_message_is_deleted(struck: Struck) -> None:
    for _ in struck.each("DELETE", MESSAGE):
        posted = await struck.courier.post(struck.job)
        await struck.courier.remove(struck.job, posted)
        assert struck.stage.messages() == []


@pytest.fixture
async def in_thread(stage: Stage, gate: GatedEngine) -> tuple[Job, discord.Thread]:
    """A job that waits behind the gate, and the thread where it was asked for."""
    gate.shut()
    channel = stage.bot.get_channel(stage.channel.id)
    assert isinstance(channel, discord.TextChannel)
    made = await channel.create_thread(name="owls", type=discord.ChannelType.public_thread)
    (thread,) = [thread for thread in stage.channel.threads if thread.id == made.id]
    asked = await stage.alice.slash(thread, "imagine", prompt="rabbit face")
    stage.bot.courier._progress.show = lambda *_: None  # type: ignore[method-assign]

    async def announced() -> Job | None:
        return await stage.bot.service.jobs.by_message(asked.response.id)

    job = await stage.eventually(announced)
    assert job is not None
    return job, made


async def is_archived(stage: Stage, thread: discord.Thread) -> bool:
    found = await stage.bot.fetch_channel(thread.id)
    assert isinstance(found, discord.Thread)
    return found.archived


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_thread_is_opened_whatever_is_answered_at_first(
    stage: Stage, in_thread: tuple[Job, discord.Thread], method: str
) -> None:
    job, thread = in_thread
    assert job.message_id is not None
    for status, code in STRAY:
        await thread.edit(archived=True)
        # Discord edits nothing in an archived thread; SimCord would.
        stage.env.inject_error("PATCH", MESSAGE, status=400, code=50083)
        path = f"/channels/{thread.id}"
        stage.env.inject_error(method, path, status=status, code=code, times=2)
        await stage.bot.courier.report_failure(job, job.message_id, f"Broken by {status}.{code}.")
        assert not stage.env.backend.faults
        assert not await is_archived(stage, thread)
        message = await thread.fetch_message(job.message_id)
        assert f"Broken by {status}.{code}." in message.content


async def test_a_thread_is_opened_although_it_is_called_something_else_at_first(
    stage: Stage, in_thread: tuple[Job, discord.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, thread = in_thread
    assert job.message_id is not None
    await thread.edit(archived=True)
    stage.env.inject_error("PATCH", MESSAGE, status=400, code=50083)
    get_channel, asked = stage.bot.http.get_channel, 0

    async def garble(channel_id: int) -> Any:
        nonlocal asked
        asked += 1
        found = await get_channel(channel_id)
        return {**found, "type": 99} if asked == 1 else found

    monkeypatch.setattr(stage.bot.http, "get_channel", garble)
    await stage.bot.courier.report_failure(job, job.message_id, "It broke.")
    assert asked == 2
    assert not await is_archived(stage, thread)


@pytest.mark.parametrize(("status", "code"), STRAY)
async def test_a_thread_that_opens_although_the_answer_says_otherwise_gets_its_pictures_once(
    stage: Stage,
    gate: GatedEngine,
    in_thread: tuple[Job, discord.Thread],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: int,
) -> None:
    job, thread = in_thread
    edit, opened = discord.Thread.edit, 0

    async def open_and_deny(self: discord.Thread, **changes: bool) -> discord.Thread:
        nonlocal opened
        opened += 1
        edited = await edit(self, **changes)
        if opened > 1:
            return edited
        response: Any = mock.Mock(status=status, reason="stray")
        kind = {403: discord.Forbidden, 404: discord.NotFound}.get(status, discord.HTTPException)
        raise kind(response, {"code": code, "message": "stray"})

    await thread.edit(archived=True)
    stage.env.inject_error("PATCH", MESSAGE, status=400, code=50083)
    monkeypatch.setattr(discord.Thread, "edit", open_and_deny)
    gate.open()
    await stays(stage, JobStatus.DELIVERED)
    assert opened == 2
    shown = [message async for message in thread.history() if pictures(message)]
    assert [message.id for message in shown] == [job.message_id]


async def test_pictures_for_a_thread_that_is_never_seen_to_open_are_delivered_after_a_restart(
    stage: Stage, gate: GatedEngine, in_thread: tuple[Job, discord.Thread]
) -> None:
    _, thread = in_thread
    await thread.edit(archived=True)
    stage.env.inject_error("PATCH", MESSAGE, status=400, code=50083, times=None)
    stage.env.inject_error("PATCH", f"/channels/{thread.id}", status=403, code=0, times=None)
    gate.open()
    await stays(stage, JobStatus.GENERATED)
    stage.env.backend.faults.clear()
    await stage.restart()
    await stays(stage, JobStatus.DELIVERED)


async def stays(stage: Stage, status: JobStatus) -> None:
    """Wait until nothing is under way; job 1 has this status then."""
    await stage.until(lambda: not stage.bot.service._under_way)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.status is status


async def test_a_preview_is_tried_again_with_the_next_progress(struck: Struck) -> None:
    for step, _ in enumerate(struck.each("PATCH", MESSAGE)):
        event = Progress(step + 1, 20, preview=Pixels(8, 8, bytes(192)))
        for _ in range(2):
            assert not await struck.courier._progress.edit(struck.job, struck.message_id, event)
        assert await struck.courier._progress.edit(struck.job, struck.message_id, event)
        assert f"{event.percent} %" in struck.content
        assert struck.stage.look(struck.message_id).attachments


async def test_progress_that_is_forbidden_is_not_tried_again_and_again(struck: Struck) -> None:
    struck.stage.env.inject_error("PATCH", MESSAGE, status=403, code=50013, times=3)
    for step in range(1, 9):
        event = Progress(step, 20)
        assert not await struck.courier._progress.edit(struck.job, struck.message_id, event)
    assert len(struck.stage.env.backend.faults) == 1
    struck.stage.env.backend.faults.clear()
    await struck.courier.report_failure(struck.job, struck.message_id, "It broke.")
    assert "It broke." in struck.content


async def test_a_removal_without_an_answer_is_tried_again_at_the_next_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = await stage.imagine()
    stage.env.inject_error("DELETE", MESSAGE, status=404, code=0, times=None)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    await stage.bot.service.cancel_or_remove(job)
    assert [left.id for left in await stage.bot.service.jobs.deleted_with_message()] == [1]
    assert stage.look(message.id)
    stage.env.backend.faults.clear()
    await stage.restart()
    await stage.until(lambda: not stage.messages())


async def test_a_cancellation_without_an_answer_is_said_at_the_next_start(
    stage: Stage, struck: Struck, gate: GatedEngine
) -> None:
    stage.env.inject_error("PATCH", MESSAGE, status=403, code=0, times=None)
    await stage.bot.service.cancel_or_remove(struck.job)
    gate.open()
    await stage.until(lambda: not stage.bot.service._under_way)
    stage.env.backend.faults.clear()
    assert "cancelled" not in struck.content
    await stage.restart()
    await stage.until(lambda: "cancelled" in struck.content)


@pytest.mark.parametrize("path", [MESSAGE, MESSAGES])
async def test_pictures_without_any_answer_are_delivered_at_the_next_start(
    stage: Stage, gate: GatedEngine, path: str
) -> None:
    gate.shut()
    if path == MESSAGES:
        # There is no message to put them into, and none can be posted.
        stage.env.inject_error("POST", "/interactions/*", status=404, code=0, times=None)
    stage.env.inject_error("PATCH", MESSAGE, status=403, code=0, times=None)
    stage.env.inject_error("POST", MESSAGES, status=403, code=0, times=None)
    await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    gate.open()
    await stays(stage, JobStatus.GENERATED)
    # As often as it takes.
    await stage.restart()
    await stays(stage, JobStatus.GENERATED)
    stage.env.backend.faults.clear()
    await stage.restart()
    await stage.until(lambda: [m for m in stage.messages() if pictures(m)])
    await stays(stage, JobStatus.DELIVERED)
    assert len(stage.messages()) == 1


async def test_a_failure_without_an_answer_is_reported_at_the_next_start(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(gate, "step", break_down)
    stage.env.inject_error("PATCH", MESSAGE, status=404, code=0, times=None)
    asked = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stays(stage, JobStatus.RUNNING)
    await stage.restart()
    await stays(stage, JobStatus.RUNNING)
    stage.env.backend.faults.clear()
    await stage.restart()
    await stage.until(lambda: "out of order" in stage.look(asked.response.id).content)
    await stays(stage, JobStatus.FAILED)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    # The failure is reported, and the pictures are not made again.
    assert job.attempts == 1


@pytest.mark.parametrize(("status", "code"), [(404, 0), (403, 0), (404, 10062), (400, 40060)])
async def test_a_job_whose_first_answer_went_astray_gets_its_pictures(
    stage: Stage, status: int, code: int
) -> None:
    stage.env.inject_error("POST", "/interactions/*", status=status, code=code)
    await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.until(lambda: [m for m in stage.messages() if pictures(m)])
    await stage.until(lambda: not stage.bot.service._under_way)
    assert (await counts(stage.bot.service.jobs))[JobStatus.DELIVERED] == 1
    assert len(stage.messages()) == 1


@pytest.mark.parametrize(("status", "code"), [(404, 0), (403, 0), (503, 0)])
async def test_an_error_is_answered_at_the_second_attempt(
    stage: Stage, status: int, code: int
) -> None:
    stage.env.inject_error("POST", "/interactions/*", status=status, code=code)
    told = await stage.alice.slash(stage.channel, "vary", image="9-1")
    assert "There is no picture 9-1" in told.response.content


async def test_pictures_that_the_history_may_not_show_are_explained(stage: Stage) -> None:
    await stage.imagine("rabbit face")
    stage.env.inject_error("PATCH", "/webhooks/*", status=400, code=20009)
    told = await stage.alice.slash(stage.channel, "history", search="rabbit")
    assert "explicit content" in told.response.content
    assert told.ephemeral
