"""Discord's error codes: a test for each row of the table, then what people meet."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import aiohttp
import discord
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bot.client import ImagineBot
from bot.delivery import retry as retry_module
from bot.delivery.codes import TABLE, Garbled, Refusal, RefusalKind, parsed, refusal_of
from bot.delivery.retry import InvalidRequests, Retry, Target
from bot.jobs.courier_protocol import MessageGone, Unanswered, Undeliverable
from storage.states import JobStatus

from ...storage.inspection import counts
from ..stage import GatedEngine, Stage, pictures

# What becomes of a delivery that is refused with each code. A new row needs a line here.
GONE, WAITS, ENDS, OPENED, LASTS = "gone", "waits", "ends", "opened", "an hour at most"
OUTCOMES = {
    **dict.fromkeys((10003, 10004, 10008), GONE),
    **dict.fromkeys((50001, 50013, 50007, 50278, 50009, 50008, 50024, 40058, 400001), ENDS),
    **dict.fromkeys((160005, 160006), ENDS),
    50083: OPENED,
    **dict.fromkeys((20009, 200000, 200001, 240000), ENDS),
    **dict.fromkeys((40005, 50045), ENDS),
    **dict.fromkeys((30046, 20016, 20022, 20028, 20029, 40003, 40004, 40006), WAITS),
    **dict.fromkeys((40062, 40333, 130000, 40001, 50014), WAITS),
    **dict.fromkeys((50005, 50006, 50021, 50035, 50046, 50109), ENDS),
    **dict.fromkeys((10015, 10062, 40060, 40094, 50027), LASTS),
}
WORDS = {
    20009: "explicit content",
    200000: "AutoMod",
    240000: "harmful links",
    40005: "too large",
    50001: "View Channel",
    50013: "Attach Files",
    160005: "locked",
}


def refused(status: int, code: int) -> discord.HTTPException:
    return discord.HTTPException(mock.Mock(status=status, reason="x"), {"code": code})


def stray(status: int) -> discord.HTTPException:
    return discord.HTTPException(mock.Mock(status=status, reason="x"), "<html>No</html>")


class FakeRequest:
    """A request that fails with the given errors, one a try, and then succeeds."""

    def __init__(self, *errors: Exception, exists: bool | None = True) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.opened = 0
        self.slept: list[float] = []
        self._exists = exists

    async def attempt(self) -> str:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def exists(self) -> bool | None:
        return self._exists

    async def open(self) -> None:
        self.opened += 1

    async def run(self, **options: Any) -> str:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        retry = Retry(InvalidRequests(), lambda: itertools.repeat(1.0))
        with mock.patch("bot.delivery.retry.asyncio.sleep", sleep):
            return await retry.run(self.attempt, Target(self.exists, self.open), **options)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.code))
async def test_each_code_has_the_end_that_the_table_says(row: Refusal) -> None:
    outcome = OUTCOMES[row.code]
    assert row.meaning
    for status in (400, 403, 404):
        error = refused(status, row.code)
        assert refusal_of(error) is row
        again = FakeRequest(*[error] * 100, exists=False)
        if outcome == GONE:
            with pytest.raises(MessageGone):
                await again.run()
            assert again.tries == 1
            assert await FakeRequest(error, exists=True).run() == "done"
        elif outcome == WAITS:
            assert await again.run() == "done"
            assert min(again.slept) >= 0.8 * max(row.pause, 1)
        elif outcome == OPENED:
            with pytest.raises(Undeliverable, match="thread is closed"):
                await again.run()
            assert (again.tries, again.opened) == (2, 1)
        elif outcome == LASTS:
            with pytest.raises(Unanswered):
                await again.run()
        else:
            with pytest.raises(Undeliverable, match=WORDS.get(row.code, ".")) as ended:
                await again.run()
            assert str(ended.value) == row.sentence
            assert again.tries == 1
            assert not isinstance(ended.value, Unanswered)


def test_every_course_is_taken_by_some_code_and_no_code_has_two_rows() -> None:
    assert {row.kind for row in TABLE} == set(RefusalKind) - {RefusalKind.UNPROVEN}
    assert len({row.code for row in TABLE}) == len(TABLE) == len(OUTCOMES)


STRAY: list[Exception] = [
    *(stray(status) for status in (400, 403, 404, 405, 408, 409, 410, 425, 500, 502, 503, 524)),
    *(refused(status, 0) for status in (400, 401, 403, 404, 408, 429, 500)),
    refused(403, 999_999),
    refused(500, 10008),
    refused(404, "blocked"),  # type: ignore[arg-type]
    refused(404, ["blocked"]),  # type: ignore[arg-type]
    aiohttp.ClientConnectionError(),
    aiohttp.ServerDisconnectedError(),
    ConnectionResetError(),
    TimeoutError(),
    Garbled(),
]


@pytest.mark.parametrize("error", STRAY, ids=repr)
async def test_whatever_else_comes_is_tried_again_and_proves_nothing(error: Exception) -> None:
    request = FakeRequest(*[error] * 5, exists=None)
    assert await request.run() == "done"
    assert request.tries == 6


async def test_answers_without_a_meaning_come_to_an_end_and_a_dead_line_does_not() -> None:
    for error in (stray(404), refused(403, 0), Garbled()):
        with pytest.raises(Unanswered):
            await FakeRequest(*[error] * 1000).run(max_unproven=7)
    assert await FakeRequest(*[ConnectionResetError()] * 1000).run(max_unproven=7) == "done"


async def test_where_nothing_can_be_looked_up_a_second_answer_says_what_is_gone() -> None:
    request = FakeRequest(*[refused(404, 10008)] * 9, exists=None)
    with pytest.raises(MessageGone):
        await request.run()
    assert request.tries == 2


async def test_too_large_without_a_code_is_too_large_all_the_same() -> None:
    assert refusal_of(stray(413)).kind is RefusalKind.SMALLER


@pytest.mark.parametrize("fault", [AttributeError, KeyError, TypeError, ValueError])
async def test_a_web_page_that_calls_itself_a_success_is_no_answer(fault: type[Exception]) -> None:
    async def ask() -> None:
        raise fault("'str' object has no attribute 'id'")

    with pytest.raises(Garbled):
        await parsed(ask())


async def test_the_bot_stays_far_below_the_invalid_requests_that_shut_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("bot.delivery.retry.time.monotonic", lambda: now)

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("bot.delivery.retry.asyncio.sleep", sleep)
    invalid = InvalidRequests(limit=100)
    asked: list[float] = []

    async def attempt() -> None:
        asked.append(now)
        invalid.count(403)
        raise refused(403, 0)

    with pytest.raises(Unanswered):
        await Retry(invalid, lambda: itertools.repeat(1.0)).run(
            attempt, Target(FakeRequest().exists), max_unproven=1000
        )
    assert len(asked) == 1000
    for start in asked:
        assert sum(start <= at < start + 600 for at in asked) <= 100
    for status in (200, 204, 404, 400, 500):
        invalid.count(status)
    assert len(invalid._times) <= 100


async def test_every_request_of_the_bot_is_counted(simcord_bot: ImagineBot) -> None:
    statuses = iter((200, 401, 403, 404, 429, 500))

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=next(statuses))

    app = web.Application()
    app.router.add_get("/", answer)
    trace = simcord_bot.http.http_trace
    assert trace is not None
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(trace_configs=[trace]) as session,
    ):
        for _ in range(6):
            async with session.get(server.make_url("/")):
                pass
    assert len(simcord_bot._invalid._times) == 3


# From here on: what people meet.


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_module, "_DELAYS", (0.05,))


Refuse = Callable[..., list[list[str]]]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Return what lets the next edits that bring pictures fail, and lists what they brought."""
    edit = discord.PartialMessage.edit

    def refusing(error: Exception, times: int = 1) -> list[list[str]]:
        left, seen = [error] * times, list[list[str]]()

        async def refused_edit(message: discord.PartialMessage, **changes: Any) -> Any:
            names = [file.filename for file in changes.get("attachments") or ()]
            if any(name.startswith("imagine-") for name in names):
                seen.append(names)
                if left:
                    raise left.pop()
            return await edit(message, **changes)

        monkeypatch.setattr(discord.PartialMessage, "edit", refused_edit)
        return seen

    return refusing


async def said(stage: Stage) -> discord.Message:
    """Have Alice ask for a picture; return the message that says why she does not get it."""
    asked = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", seed=7)
    await stage.until(lambda: "⚠️" in stage.look(asked.response.id).content)
    await stage.until(lambda: not stage.bot.service._under_way)
    return stage.look(asked.response.id)


async def test_what_a_filter_blocks_is_said_and_stays_in_the_history(
    stage: Stage, refuse: Refuse
) -> None:
    refuse(refused(400, 20009))
    message = await said(stage)
    assert "explicit content" in message.content
    assert not pictures(message)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.status is JobStatus.FAILED
    assert await stage.alice.autocomplete(stage.channel, "history", "search", "rab")
    found = await stage.alice.slash(stage.channel, "history", search="rabbit")
    assert "seed 7" in found.response.content
    assert found.response.attachments
    varied = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert pictures(await stage.finished(varied.response.id))
    await stage.alice.react(message, "🎲")
    await stage.until(lambda: len([m for m in stage.messages() if pictures(m)]) == 2)


async def test_pictures_that_are_too_large_come_as_smaller_jpegs(
    stage: Stage, refuse: Refuse
) -> None:
    sent = refuse(refused(413, 40005))
    message = await stage.imagine()
    assert [file.filename for file in message.attachments] == ["imagine-1-1.jpg"]
    assert sent == [["imagine-1-1.png"], ["imagine-1-1.jpg"]]
    sent = refuse(refused(413, 40005), times=9)
    assert "too large" in (await said(stage)).content
    assert sent == [["imagine-2-1.png"], ["imagine-2-1.jpg"]]


async def test_a_filter_that_blocks_the_prompt_too_is_said_without_it(stage: Stage) -> None:
    edit, blocked = discord.PartialMessage.edit, []

    async def automod(message: discord.PartialMessage, **changes: Any) -> Any:
        if "rabbit" in changes["content"]:
            blocked.append(changes)
            raise refused(400, 200000)
        return await edit(message, **changes)

    with mock.patch.object(discord.PartialMessage, "edit", automod):
        message = await said(stage)
    assert message.content.startswith(f"<@{stage.alice.id}>\n⚠️ AutoMod")
    assert blocked


@pytest.mark.parametrize(
    "error",
    [refused(404, 0), refused(403, 0), stray(403), stray(408), refused(404, 10008), Garbled()],
    ids=repr,
)
async def test_a_stray_answer_costs_no_picture(
    stage: Stage, refuse: Refuse, error: Exception
) -> None:
    sent = refuse(error, times=2)
    message = await stage.imagine()
    assert [file.filename for file in message.attachments] == ["imagine-1-1.png"]
    assert len(sent) == 3
    await stage.until(lambda: not stage.bot.service._under_way)
    assert (await counts(stage.bot.service.jobs))[JobStatus.DELIVERED] == 1


async def test_pictures_that_get_no_answer_for_an_hour_stay_in_the_history(
    stage: Stage, refuse: Refuse
) -> None:
    refuse(refused(404, 0), times=1000)
    message = await said(stage)
    assert "gives no answer that makes sense" in message.content
    found = await stage.alice.slash(stage.channel, "history", search="1")
    assert found.response.attachments


@pytest.mark.parametrize(("status", "code"), [(404, 0), (404, 10008), (403, 0)])
async def test_a_stray_answer_to_progress_cancels_nothing(
    stage: Stage, gate: GatedEngine, status: int, code: int
) -> None:
    gate.shut()
    stage.env.inject_error("PATCH", "/channels/*/messages/*", status=status, code=code, times=1)
    asked = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.until(lambda: not stage.env.backend.faults, seconds=10)
    gate.open()
    assert pictures(await stage.finished(asked.response.id))
