"""The one limit on the memory that pictures take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.memory import PictureMemory


class Holder:
    """Holds so many bytes for an owner until `release`."""

    def __init__(self, memory: PictureMemory, size: int, owner: int) -> None:
        self.size = size
        self.holds = False
        self._over = asyncio.Event()
        self.task = asyncio.create_task(self._hold(memory, owner))

    async def _hold(self, memory: PictureMemory, owner: int) -> None:
        async with memory.hold(self.size, owner):
            self.holds = True
            try:
                await self._over.wait()
            finally:
                self.holds = False

    async def release(self) -> None:
        self._over.set()
        await settled()


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def holding(holders: Sequence[Holder]) -> list[bool]:
    return [holder.holds for holder in holders]


async def test_one_owner_gets_a_share_only_and_the_next_owner_need_not_wait() -> None:
    memory = PictureMemory(100)
    mine = [Holder(memory, 10, owner=1) for _ in range(5)]
    await settled()
    assert holding(mine) == [True, True, False, False, False]
    yours = Holder(memory, 10, owner=2)
    await settled()
    assert yours.holds
    await mine[0].release()
    assert holding(mine) == [False, True, True, False, False]


async def test_a_request_above_the_limit_is_granted_alone_and_is_not_overtaken() -> None:
    memory = PictureMemory(100)
    first = Holder(memory, 10, owner=1)
    large = Holder(memory, 1_000, owner=2)
    late = Holder(memory, 10, owner=3)
    await settled()
    assert holding([first, large, late]) == [True, False, False]
    await first.release()
    assert holding([large, late]) == [True, False]
    await large.release()
    assert late.holds


async def test_the_owner_who_holds_least_is_next() -> None:
    memory = PictureMemory(100)
    holders = [Holder(memory, 25, owner) for owner in (1, 2, 3, 4)]
    more = Holder(memory, 0, owner=1)
    newcomer = Holder(memory, 20, owner=5)
    await settled()
    assert not newcomer.holds
    await holders[1].release()
    assert newcomer.holds
    assert more.holds


async def test_a_holder_that_fails_or_is_cancelled_holds_nothing() -> None:
    memory = PictureMemory(10)
    with pytest.raises(OSError, match="disk"):
        async with memory.hold(10, owner=1):
            raise OSError("disk")
    holder, waiting, granted = (Holder(memory, 10, owner) for owner in (1, 2, 3))
    await settled()
    waiting.task.cancel()
    await settled()
    await holder.release()
    assert granted.holds
    # Cancelled at the moment at which it is granted.
    last = Holder(memory, 10, owner=4)
    await settled()
    granted._over.set()
    await asyncio.sleep(0)
    assert memory._held[4] == 10
    assert not last.holds
    last.task.cancel()
    await settled()
    assert memory.held == 0
    assert not memory._waiting


async def test_bytes_that_are_only_counted_keep_nobody_waiting_for_ever() -> None:
    memory = PictureMemory(100)
    memory.count("disk", 50)
    large, late = Holder(memory, 80, owner=1), Holder(memory, 10, owner=2)
    await settled()
    assert holding([large, late]) == [True, False]
    await large.release()
    assert late.holds
    memory.count("disk", -50)
    await late.release()
    assert memory.held == 0


Steps = st.lists(
    st.tuples(
        st.sampled_from(["hold", "release", "cancel"]), st.integers(0, 3), st.integers(0, 60)
    ),
    max_size=40,
)


@settings(max_examples=50)
@given(Steps)
def test_the_limit_holds_and_every_request_is_granted_or_cancelled(
    steps: list[tuple[str, int, int]],
) -> None:
    async def live() -> None:
        memory = PictureMemory(100)
        holders: list[Holder] = []
        for what, owner, number in steps:
            if what == "hold":
                holders.append(Holder(memory, number, owner))
            elif holders and what == "release":
                holders[number % len(holders)]._over.set()
            elif holders:
                holders[number % len(holders)].task.cancel()
            await settled()
            assert memory.held == sum(one.size for one in holders if one.holds) <= 100
        for holder in holders:
            holder._over.set()
        await asyncio.gather(*(holder.task for holder in holders), return_exceptions=True)
        assert memory.held == 0
        assert not memory._waiting

    asyncio.run(live())
