"""The deadline of an answer, on the real clock: SimCord's timers wait for running work."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from bot.interactions import intake


class Response:
    """The response object of an interaction; `defer` may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.deferred: list[bool] = []
        self.was_deferred = asyncio.Event()
        self._error = error

    def is_done(self) -> bool:
        return bool(self.deferred)

    async def defer(self, *, thinking: bool, ephemeral: bool) -> None:
        if self._error is not None:
            raise self._error
        assert thinking
        self.deferred.append(ephemeral)
        self.was_deferred.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_DEFER_AFTER_SECONDS", 0.05)


def interaction(response: Response) -> Any:
    return SimpleNamespace(response=response)


async def late(go: asyncio.Event) -> str:
    await go.wait()
    return "accepted"


async def test_fast_work_defers_nothing() -> None:
    response = Response()
    go = asyncio.Event()
    go.set()
    assert await intake.within_deadline(interaction(response), late(go)) == "accepted"
    assert response.deferred == []


@pytest.mark.parametrize("ephemeral", [True, False])
async def test_slow_work_defers_the_interaction(ephemeral: bool) -> None:
    response = Response()
    go = asyncio.Event()
    waiting = asyncio.ensure_future(
        intake.within_deadline(interaction(response), late(go), ephemeral=ephemeral)
    )
    await asyncio.wait_for(response.was_deferred.wait(), 10)
    assert not waiting.done()
    go.set()
    assert await waiting == "accepted"
    assert response.deferred == [ephemeral]


async def test_work_goes_on_if_the_interaction_cannot_be_deferred() -> None:
    response = Response(aiohttp.ClientOSError("the line was cut"))
    go = asyncio.Event()
    waiting = asyncio.ensure_future(intake.within_deadline(interaction(response), late(go)))
    await asyncio.sleep(0.2)
    go.set()
    assert await waiting == "accepted"
