from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import discord
import pytest

from bot.config import Settings
from bot.interactions.requester import Requester
from bot.requests.options import RequestOptions
from generation.errors import MemberQueueFull
from storage.records import JobKind, NewJob

from ..stage import GatedEngine, Stage, pictures


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", steps=2, queue_limit=2)


async def _ordered(
    stage: Stage,
    message_id: int,
    make: Callable[[Requester, int], Coroutine[Any, Any, NewJob]],
    n: int,
) -> None:
    """Have Alice order something by a reaction to a message, which `make` takes its time over."""
    channel = stage.bot.get_channel(stage.channel.id)
    assert isinstance(channel, discord.TextChannel)
    alice = await channel.guild.fetch_member(stage.alice.id)
    requester = Requester(alice, channel.guild.id, channel.id, f"reaction:{message_id}:{n}:🎲")
    picture = channel.get_partial_message(message_id)
    await stage.bot.services.intake.accept_reaction(requester, make(requester, n), picture)


async def test_a_full_queue_says_so_and_takes_jobs_again_when_there_is_room(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    accepted = [
        await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face") for _ in range(3)
    ]
    refused = await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    assert refused.ephemeral
    assert refused.response.content == (
        "The queue is full (2 pictures are waiting); please try again in a minute."
    )
    # Who has nothing waiting gets a place all the same, and one only.
    accepted.append(await stage.bob.slash(stage.channel, "imagine", prompt="cat face"))
    refused = await stage.bob.slash(stage.channel, "imagine", prompt="cat face")
    assert refused.ephemeral
    gate.open()
    for result in accepted:
        await stage.finished(result.response.id)
    assert (await stage.imagine("cat face")).attachments


async def test_a_reaction_that_meets_a_full_queue_is_answered(
    stage: Stage, gate: GatedEngine
) -> None:
    message = await stage.imagine("rabbit face")
    gate.shut()
    for _ in range(3):
        await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    before = len(stage.messages())
    for _ in range(3):
        await stage.alice.react(message, "🔁")
        await stage.alice.unreact(message, "🔁")
    # Once, and not for each of them.
    assert len(stage.messages()) == before + 1
    answer = stage.messages()[-1]
    assert answer.content == (
        f"{stage.alice.mention}: The queue is full (2 pictures are waiting); please try again in a "
        "minute."
    )
    await stage.env.advance_time(21)
    await stage.until(lambda: len(stage.messages()) == before)


class TestOnePerson:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data=tmp_path / "data", steps=2, member_limit=2)

    async def test_one_person_cannot_fill_the_queue_for_the_others(
        self, stage: Stage, gate: GatedEngine
    ) -> None:
        gate.shut()
        for _ in range(3):
            await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
        refused = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
        assert refused.ephemeral
        assert refused.response.content == (
            "2 of your pictures are waiting already; please try again when one is done."
        )
        # A picture from outside is not even fetched for somebody who has no place.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(discord.Attachment, "read", None)
            varied = await stage.alice.slash(
                stage.channel, "vary", attachment=("photo.png", b"any"), prompt="red apple"
            )
        assert varied.response.content == refused.response.content
        accepted = await stage.bob.slash(stage.channel, "imagine", prompt="cat face")
        gate.open()
        assert (await stage.finished(accepted.response.id)).attachments

    async def test_clicks_at_the_same_moment_count_too(self, stage: Stage) -> None:
        queue = stage.bot.service._queue
        with queue.reserve(7), queue.reserve(7):
            with pytest.raises(MemberQueueFull), queue.reserve(7):
                pass
            with queue.reserve(8):
                assert queue.waiting == 3
        assert queue.waiting == 0

    async def test_an_order_that_is_still_being_made_counts_too(
        self, stage: Stage, gate: GatedEngine
    ) -> None:
        message = await stage.imagine("rabbit face")
        gate.shut()
        arrives = asyncio.Event()
        begun: list[int] = []

        async def reading(requester: Requester, number: int) -> NewJob:
            begun.append(number)
            await arrives.wait()
            return requester.new_job(
                JobKind.VARY,
                stage.bot.offer.default.builder.imagine(
                    RequestOptions(prompt="red apple"), guild_id=None
                ),
            )

        accepting = [
            asyncio.create_task(_ordered(stage, message.id, reading, number)) for number in range(6)
        ]
        await asyncio.wait(accepting[2:])
        assert all(isinstance(task.exception(), MemberQueueFull) for task in accepting[2:])
        queue = stage.bot.service._queue
        assert (begun, queue.waiting) == ([0, 1], 2)
        arrives.set()
        await asyncio.gather(*accepting[:2])
        # One is on the engine. Each had one place, not one for the order and one for the job.
        await stage.until(lambda: queue.waiting == 1)
        gate.open()
        await stage.until(lambda: sum(map(bool, map(pictures, stage.messages()))) == 3)

    async def test_an_order_that_comes_to_nothing_leaves_no_place_taken(self, stage: Stage) -> None:
        for _ in range(5):
            refused = await stage.alice.slash(stage.channel, "vary", image="999-1")
            assert "no picture 999-1" in refused.response.content
        assert stage.bot.service._queue.waiting == 0


class TestOneServer:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data=tmp_path / "data", steps=2, queue_limit=8, member_limit=2)

    async def test_its_accounts_cannot_fill_the_queue_for_people_of_another(
        self, stage: Stage, gate: GatedEngine
    ) -> None:
        gate.shut()
        theirs = stage.env.create_guild("Puppets")
        room = theirs.create_text_channel("x")
        puppets = [theirs.add_member(stage.env.create_user(f"puppet{n}")) for n in range(12)]
        answers = [
            await puppet.slash(room, "imagine", prompt="red apple")
            for _ in range(2)
            for puppet in puppets
        ]
        assert sum(not answer.ephemeral for answer in answers) == 9
        assert answers[-1].response.content == (
            "8 pictures of this server are waiting already; please try again in a minute."
        )
        for person in (stage.alice, stage.bob):
            accepted = await person.slash(stage.channel, "imagine", prompt="cat face")
            assert not accepted.ephemeral
        gate.open()
        await stage.finished(accepted.response.id)
