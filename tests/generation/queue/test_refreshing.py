"""How often places and times are worked out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import pytest

from generation.queue import timers
from generation.queue.fairness import FairQueue
from generation.queue.tickets import JobCancelled, QueueClosed, Ticket
from generation.values.events import Event, Waiting

from ..queues import (
    Stage,
    a_stage,
    failure_of,
)


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many jobs were waiting at each time that the fair order was worked out."""
    lengths: list[int] = []
    in_order = FairQueue.__iter__

    def counted(order: FairQueue[Ticket]) -> Iterator[Ticket]:
        lengths.append(len(order))
        return in_order(order)

    monkeypatch.setattr(FairQueue, "__iter__", counted)
    return lengths


def last_places(stage: Stage, numbers: Iterable[int]) -> list[Event]:
    return [stage.told[number].events[-1] for number in numbers]


class TestLongQueue:
    async def test_jobs_that_come_together_cause_one_refresh(
        self, stage: Stage, orders: list[int]
    ) -> None:
        await stage.queue.ready()
        await asyncio.sleep(0)
        orders.clear()
        for number in range(500):
            stage.submit(number, member=str(number))
        assert orders == []
        await asyncio.sleep(0)
        assert orders == [499]
        assert last_places(stage, range(1, 500)) == [Waiting(place) for place in range(1, 500)]

    async def test_a_long_queue_is_refreshed_rarely(
        self, stage: Stage, orders: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(timers, "_REFRESH_SECONDS", 3_600.0)
        for number in range(500):
            stage.submit(number, member=str(number))
            await asyncio.sleep(0)
        # Each time while it was short, and not any more once it was long.
        assert len(orders) <= 103
        assert max(orders) <= 101

    async def test_places_in_a_long_queue_are_told_soon(
        self, stage: Stage, orders: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(timers, "_REFRESH_SECONDS", 0.01)
        await stage.queue.ready()
        await asyncio.sleep(0)
        orders.clear()
        for number in range(200):
            stage.submit(number)
        await stage.told[199].until(Waiting(199))
        assert stage.queue.cancel(1)
        await stage.told[199].until(Waiting(198))
        assert stage.told[1].events == [Waiting(1)]
        assert len(orders) == 2

    async def test_a_closing_queue_tells_no_places(
        self, orders: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(timers, "_REFRESH_SECONDS", 0.2)
        async with a_stage() as stage:
            await stage.queue.ready()
            tickets = [stage.submit(number) for number in range(300)]
            await stage.told[299].until(Waiting(299))
            orders.clear()
            assert stage.queue.cancel(1)
        await asyncio.sleep(0.3)
        assert orders == []
        assert stage.told[299].events == [Waiting(299)]
        assert isinstance(await failure_of(tickets[1]), JobCancelled)
        for ticket in tickets[2:]:
            assert isinstance(await failure_of(ticket), QueueClosed)
