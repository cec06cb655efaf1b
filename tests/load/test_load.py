"""Floods in a short form: what is held and what is refused. `tests.load` has the long one."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio
from PIL import Image

from ..rig import BotProcess, Discord
from .floods import BYTES_GOAL, MEMBER_LIMIT, a_bot, flood_history, flood_uploads

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def flooded() -> AsyncIterator[tuple[Discord, BotProcess]]:
    async with a_bot(["carol"], steps=2) as (world, bot):
        yield world, bot


async def test_one_members_flood_of_history_holds_a_few_answers_and_the_others_are_refused(
    flooded: tuple[Discord, BotProcess],
) -> None:
    world, bot = flooded
    flood = await flood_history(world, "alice", "bob", commands=70, size=128)
    assert flood.uploads == 3
    assert flood.shown == 3
    # Sixty or so are below the rate limit.
    assert 50 <= flood.refused < 70 - flood.shown
    assert flood.another < 30
    assert "asks for more than anybody can by hand" in bot.output
    assert psutil.Process(bot.pid).memory_info().rss < BYTES_GOAL


async def test_uploads_are_refused_while_as_many_as_may_are_still_being_fetched(
    flooded: tuple[Discord, BotProcess],
) -> None:
    world, bot = flooded
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    flood = await flood_uploads(world, "carol", "bob", file.getvalue(), uploads=MEMBER_LIMIT + 5)
    assert flood.refused == 5
    assert flood.jobs == MEMBER_LIMIT
    assert 1 <= flood.fetched <= MEMBER_LIMIT
    assert flood.another < 30
    assert psutil.Process(bot.pid).memory_info().rss < BYTES_GOAL
