"""The one bound of what holds pictures in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.memory import PictureMemory


class Holder:
    """Somebody who holds so many bytes until they are told to let go."""

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

    async def let_go(self) -> None:
        self._over.set()
        await settled()


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def holding(holders: Sequence[Holder]) -> list[bool]:
    return [holder.holds for holder in holders]


async def test_one_person_holds_a_part_only_and_the_next_person_holds_theirs_at_once() -> None:
    memory = PictureMemory(100)
    mine = [Holder(memory, 10, owner=1) for _ in range(5)]
    await settled()
    assert holding(mine) == [True, True, False, False, False]
    yours = Holder(memory, 10, owner=2)
    await settled()
    assert yours.holds
    await mine[0].let_go()
    assert holding(mine) == [False, True, True, False, False]


async def test_what_is_larger_than_all_there_is_has_its_turn_alone_and_is_not_overtaken() -> None:
    memory = PictureMemory(100)
    first = Holder(memory, 10, owner=1)
    large = Holder(memory, 1_000, owner=2)
    late = Holder(memory, 10, owner=3)
    await settled()
    assert holding([first, large, late]) == [True, False, False]
    await first.let_go()
    assert holding([large, late]) == [True, False]
    await large.let_go()
    assert late.holds


async def test_who_holds_least_is_next() -> None:
    memory = PictureMemory(100)
    holders = [Holder(memory, 25, owner) for owner in (1, 2, 3, 4)]
    more = Holder(memory, 0, owner=1)
    newcomer = Holder(memory, 20, owner=5)
    await settled()
    assert not newcomer.holds
    await holders[1].let_go()
    assert newcomer.holds
    assert more.holds


async def test_what_fails_or_is_cancelled_holds_nothing_any_more() -> None:
    memory = PictureMemory(10)
    with pytest.raises(OSError, match="disk"):
        async with memory.hold(10, owner=1):
            raise OSError("disk")
    holder, waiting, granted = (Holder(memory, 10, owner) for owner in (1, 2, 3))
    await settled()
    waiting.task.cancel()
    await settled()
    await holder.let_go()
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


async def test_what_is_only_counted_keeps_nobody_waiting_for_ever() -> None:
    memory = PictureMemory(100)
    memory.count("disk", 50)
    large, late = Holder(memory, 80, owner=1), Holder(memory, 10, owner=2)
    await settled()
    assert holding([large, late]) == [True, False]
    await large.let_go()
    assert late.holds
    memory.count("disk", -50)
    await late.let_go()
    assert memory.held == 0


Steps = st.lists(
    st.tuples(st.sampled_from(["hold", "let go", "cancel"]), st.integers(0, 3), st.integers(0, 60)),
    max_size=40,
)


@settings(max_examples=50)
@given(Steps)
def test_whatever_people_do_the_bound_holds_and_everybody_has_their_turn(
    steps: list[tuple[str, int, int]],
) -> None:
    async def live() -> None:
        memory = PictureMemory(100)
        holders: list[Holder] = []
        for what, owner, number in steps:
            if what == "hold":
                holders.append(Holder(memory, number, owner))
            elif holders and what == "let go":
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
