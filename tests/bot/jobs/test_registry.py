from __future__ import annotations

import asyncio
import gc
import weakref
from functools import partial
from typing import Any
from unittest import mock

import pytest

from bot.jobs.registry import JobUnderWay, Registry
from bot.jobs.tasks import Background


def job(job_id: int, channel_id: int = 5) -> JobUnderWay:
    known: Any = mock.Mock(id=job_id, channel_id=channel_id)
    return JobUnderWay(known)


@pytest.fixture
def background() -> Background:
    return Background()


@pytest.fixture
def registry(background: Background) -> Registry:
    return Registry(background)


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_job_is_under_way_until_its_work_ends(registry: Registry) -> None:
    ends = asyncio.Event()

    async def work() -> None:
        await ends.wait()

    under_way = job(1)
    registry.start(under_way, work, "work")
    assert 1 in registry
    assert registry[1] is registry.get(1) is under_way
    await settled()
    assert registry.ids() == {1}
    ends.set()
    await settled()
    assert len(registry) == 0
    assert registry.get(1) is None


async def test_work_that_fails_or_is_cancelled_ends_too(
    registry: Registry, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise OSError("disk")

    async def wait() -> None:
        await asyncio.Event().wait()

    registry.start(job(1), fail, "fail")
    registry.start(job(2), wait, "wait")
    await settled()
    assert registry.ids() == {2}
    assert "Could not fail" in caplog.text
    await background.close()
    assert len(registry) == 0


async def test_what_the_work_lets_go_of_is_freed_while_it_runs(registry: Registry) -> None:
    class Pictures:
        pass

    async def work(pictures: Pictures) -> None:
        del pictures
        await asyncio.Event().wait()

    held = Pictures()
    is_held = weakref.ref(held)
    registry.start(job(1), partial(work, held), "work")
    del held
    await settled()
    gc.collect()
    assert is_held() is None


async def test_the_messages_of_a_channel_are_those_that_were_sent(registry: Registry) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    sent, unsent, elsewhere = job(1), job(2), job(3, channel_id=6)
    for under_way in (sent, unsent, elsewhere):
        registry.start(under_way, work, "work")
    sent.message_id.set_result(11)
    elsewhere.message_id.set_result(33)
    asking = asyncio.create_task(registry.messages_in(5))
    await settled()
    assert not asking.done()
    unsent.message_id.set_result(None)
    assert await asking == {11: 1}


async def test_a_message_that_is_not_sent_in_time_is_not_waited_for(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("bot.jobs.registry._ANNOUNCED_SECONDS", 0.01)
    registry.start(job(1), work, "work")
    resumed = asyncio.Event()
    resumed.set()
    with pytest.raises(TimeoutError):
        await registry.all_messages_known(after=resumed)
    assert await registry.messages_in(5) == {}
    registry[1].message_id.set_result(11)
    await registry.all_messages_known(after=resumed)
