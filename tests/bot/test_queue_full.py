from __future__ import annotations

from pathlib import Path

import discord
import pytest

from bot.config import Settings
from generation.errors import MemberQueueFull

from .stage import GatedEngine, Stage


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", steps=2, queue_limit=2)


async def test_a_full_queue_says_so_and_takes_jobs_again_when_there_is_room(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    accepted = [
        await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face") for _ in range(3)
    ]
    refused = await stage.bob.slash(stage.channel, "imagine", prompt="cat face")
    assert refused.ephemeral
    assert refused.response.content == (
        "The queue is full (2 pictures are waiting); please try again in a minute."
    )
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
        await stage.bob.react(message, "🔁")
        await stage.bob.unreact(message, "🔁")
    # Once, and not for each of them.
    assert len(stage.messages()) == before + 1
    answer = stage.messages()[-1]
    assert answer.content == (
        f"{stage.bob.mention}: The queue is full (2 pictures are waiting); please try again in a "
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
