"""The deadline of an answer, by the real clock: SimCord lets its timers wait for running work."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from bot.interactions import intake


class Response:
    """An interaction's answer to Discord, which may go wrong."""

    def __init__(self, error: Exception | None = None) -> None:
        self.deferred: list[bool] = []
        self.promised = asyncio.Event()
        self._error = error

    def is_done(self) -> bool:
        return bool(self.deferred)

    async def defer(self, *, thinking: bool, ephemeral: bool) -> None:
        if self._error is not None:
            raise self._error
        assert thinking
        self.deferred.append(ephemeral)
        self.promised.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_DEFER_AFTER_SECONDS", 0.05)


def interaction(response: Response) -> Any:
    return SimpleNamespace(response=response)


async def late(go: asyncio.Event) -> str:
    await go.wait()
    return "accepted"


async def test_work_that_is_done_in_time_needs_no_promise() -> None:
    response = Response()
    go = asyncio.Event()
    go.set()
    assert await intake.within_deadline(interaction(response), late(go)) == "accepted"
    assert response.deferred == []


@pytest.mark.parametrize("ephemeral", [True, False])
async def test_work_that_takes_long_is_promised_in_time(ephemeral: bool) -> None:
    response = Response()
    go = asyncio.Event()
    waiting = asyncio.ensure_future(
        intake.within_deadline(interaction(response), late(go), ephemeral=ephemeral)
    )
    await asyncio.wait_for(response.promised.wait(), 10)
    assert not waiting.done()
    go.set()
    assert await waiting == "accepted"
    assert response.deferred == [ephemeral]


async def test_a_promise_that_discord_does_not_take_stops_no_work() -> None:
    response = Response(aiohttp.ClientOSError("the line was cut"))
    go = asyncio.Event()
    waiting = asyncio.ensure_future(intake.within_deadline(interaction(response), late(go)))
    await asyncio.sleep(0.2)
    go.set()
    assert await waiting == "accepted"
