"""The rate limit in front of everything that people send."""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
from typing import Any

import discord
import pytest
from discord.ui import DynamicItem, LayoutView, Modal, View
from hypothesis import given, settings
from hypothesis import strategies as st

import bot
from bot.cogs.buttons import DYNAMIC_ITEMS
from bot.errors import ConcurrencyLimitReached
from bot.interactions import rate_limit as rate_limit_module
from bot.interactions.buckets import Buckets, Policy
from bot.interactions.concurrency import ConcurrencyLimit, NewestOnly
from bot.interactions.interaction_check import RateLimited
from bot.interactions.rate_limit import RateLimit

from ..stage import Stage, buttons

TOO_MANY = "You are asking faster than I can keep up with; please wait a minute."


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class TestBuckets:
    def test_a_burst_passes_at_once_and_then_the_steady_rate(self) -> None:
        clock = Clock()
        buckets = Buckets(Policy(burst=3, rate=2), clock)
        assert [buckets.take("a") for _ in range(5)] == [True, True, True, False, False]
        assert buckets.take("b")
        clock.now += 0.5
        assert [buckets.take("a") for _ in range(2)] == [True, False]
        clock.now += 100
        assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]

    def test_full_buckets_are_dropped(self) -> None:
        clock = Clock()
        buckets = Buckets(Policy(burst=10, rate=1), clock)
        for number in range(1_000):
            buckets.take(number)
        clock.now += 1.5
        buckets.take("late")
        assert len(buckets) == 1

    @settings(max_examples=50)
    @given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 4)), max_size=80))
    def test_each_key_gets_at_most_burst_and_rate_whatever_the_others_take(
        self, asked: list[tuple[float, int]]
    ) -> None:
        clock, policy = Clock(), Policy(burst=4, rate=1)
        buckets = Buckets(policy, clock)
        alone = {key: Buckets(policy, clock) for key in range(5)}
        taken: dict[int, list[float]] = {key: [] for key in range(5)}
        for pause, key in asked:
            clock.now += pause
            passed = buckets.take(key)
            assert passed == alone[key].take(key)
            if passed:
                taken[key].append(clock.now)
                for first, at in enumerate(taken[key]):
                    within = len(taken[key]) - first
                    assert within <= policy.burst + (clock.now - at) * policy.rate + 1e-2
            assert len(buckets) <= 5


class TestRateLimit:
    def test_a_fast_person_never_reaches_the_limit(self) -> None:
        clock = Clock()
        rate_limit = RateLimit(clock)
        # Ten minutes of typing with four requests for suggestions a second, and of clicks.
        for tick in range(10 * 60 * 4):
            clock.now += 0.25
            assert rate_limit.passes(1, typing=True)
            assert tick % 2 or rate_limit.passes(1)

    def test_a_flood_is_logged_once_in_a_while_for_each_person(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = Clock()
        rate_limit = RateLimit(clock)
        with caplog.at_level(logging.WARNING, "bot.interactions.rate_limit"):
            passed = sum(rate_limit.passes(person) for person in (1, 2) for _ in range(500))
        assert passed == 2 * rate_limit_module._ASKING.burst
        assert [record.args for record in caplog.records] == [(1,), (2,)]
        caplog.clear()
        clock.now += 700
        for _ in range(500):
            rate_limit.passes(1)
        assert len(caplog.records) == 1


def shut(stage: Stage, person: int) -> None:
    """Use up a person's limit, except for two requests for suggestions and one answer."""
    rate_limit, slow = stage.bot.services.rate_limit, 0.001
    rate_limit._asking, rate_limit._answers = (
        Buckets(Policy(burst=1, rate=slow)) for _ in range(2)
    )
    rate_limit._typing = Buckets(Policy(burst=2, rate=slow))
    assert rate_limit.passes(person)
    assert not rate_limit.passes(person)


class TestPeople:
    async def test_a_command_too_many_is_answered_once_and_nothing_is_done(
        self, stage: Stage
    ) -> None:
        shut(stage, stage.alice.id)
        refused = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
        assert refused.ephemeral
        assert refused.response.content == TOO_MANY
        assert not (await stage.alice.slash(stage.channel, "history")).acknowledged
        assert await stage.bot.services.lookup.history(stage.alice.id, "", 9) == []
        answered = await stage.bob.slash(stage.channel, "history")
        assert "You have no pictures yet" in answered.response.content

    async def test_a_garbled_answer_to_the_refusal_is_no_error(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def garbled(*_: Any, **__: Any) -> None:
            raise KeyError("interaction")

        shut(stage, stage.alice.id)
        monkeypatch.setattr(discord.InteractionResponse, "send_message", garbled)
        assert not (await stage.alice.slash(stage.channel, "history")).acknowledged

    async def test_a_button_too_many_is_answered_once_and_a_reaction_does_nothing(
        self, stage: Stage
    ) -> None:
        message = await stage.imagine("rabbit face")
        shut(stage, stage.alice.id)
        again, remove, vary = sorted(buttons(message))
        refused = await stage.alice.click(message, custom_id=again)
        assert refused.ephemeral
        assert refused.response.content == TOO_MANY
        for button in (again, vary, remove):
            assert not (await stage.alice.click(message, custom_id=button)).acknowledged
        for emoji in ("🔁", "🎲", "❌"):
            await stage.alice.react(message, emoji)
        assert [one.id for one in stage.messages()] == [message.id]
        assert len(await stage.bot.services.lookup.history(stage.alice.id, "", 9)) == 1

    async def test_suggestions_have_a_limit_of_their_own_and_are_empty_above_it(
        self, stage: Stage
    ) -> None:
        await stage.imagine("rabbit face")
        shut(stage, stage.alice.id)
        for _ in range(2):
            assert await stage.alice.autocomplete(stage.channel, "history", "search", "rab")
        assert await stage.alice.autocomplete(stage.channel, "history", "search", "rab") == []


def test_everything_that_people_can_press_or_fill_in_is_under_the_rate_limit() -> None:
    for module in pkgutil.walk_packages(bot.__path__, "bot."):
        if not module.name.startswith(("bot.demo", "bot.bench")):
            importlib.import_module(module.name)
    pressed: list[type[Any]] = [
        kind
        for base in (DynamicItem, View, LayoutView, Modal)
        for kind in base.__subclasses__()
        if kind.__module__.startswith("bot.")
    ]
    assert set(DYNAMIC_ITEMS) <= set(pressed)
    for kind in pressed:
        assert issubclass(kind, RateLimited), kind
        assert kind.interaction_check is RateLimited.interaction_check, kind


class TestConcurrency:
    async def test_the_work_for_one_person_at_the_same_time_is_limited(self) -> None:
        limit = ConcurrencyLimit(2)
        with limit.slot_for(1), limit.slot_for(1):
            with (
                pytest.raises(ConcurrencyLimitReached, match="still working on 2"),
                limit.slot_for(1),
            ):
                pass
            with limit.slot_for(2):
                pass
        with pytest.raises(OSError, match="disk"), limit.slot_for(1):
            raise OSError("disk")
        assert not limit._running

    async def test_only_the_newest_waiting_work_of_a_person_is_done(self) -> None:
        newest: NewestOnly = NewestOnly()
        arrives = asyncio.Event()
        done: list[int] = []

        async def work(number: int) -> int:
            done.append(number)
            await arrives.wait()
            return number

        def asking(person: int, number: int) -> asyncio.Task[int | None]:
            return asyncio.create_task(newest.do(person, lambda: work(number)))

        tasks = [asking(1, number) for number in range(40)]
        other = asking(2, 99)
        await asyncio.sleep(0)
        arrives.set()
        assert await asyncio.gather(*tasks) == [0, *[None] * 38, 39]
        assert await other == 99
        assert done == [0, 99, 39]
        assert not newest._waiters

    async def test_failed_and_cancelled_work_does_not_block_later_work(self) -> None:
        newest: NewestOnly = NewestOnly()

        async def fail() -> None:
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            await newest.do(1, fail)
        waiting = asyncio.create_task(newest.do(1, asyncio.Event().wait))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await newest.do(1, lambda: asyncio.sleep(0, "found")) == "found"
        assert not newest._waiters
