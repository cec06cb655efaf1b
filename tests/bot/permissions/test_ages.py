"""Pictures of age-restricted channels are shown in such channels only."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

import discord
import pytest
import simcord

from bot.delivery.retry import InvalidRequests
from bot.errors import AgeRestricted
from bot.permissions import ages
from bot.permissions.ages import Ages, restriction

from ..stage import Stage, buttons, pictures

SENTENCE = "That picture was made in an age-restricted channel; use it in one."


@pytest.fixture
def adults(stage: Stage) -> simcord.ChannelHandle:
    channel = stage.guild.create_text_channel("adults")
    stage.restrict(channel)
    return channel


async def made_in(stage: Stage, channel: Any, prompt: str = "rabbit face") -> discord.Message:
    """Have Alice ask for a picture in a channel; return its message."""
    before = len(channel.history())
    await stage.alice.slash(channel, "imagine", prompt=prompt, seed=7)
    await stage.until(lambda: len([m for m in channel.history() if pictures(m)]) > before)
    return max(channel.history(), key=lambda message: message.id)


async def thread_below(stage: Stage, channel: Any) -> Any:
    parent = stage.bot.get_channel(channel.id)
    assert isinstance(parent, discord.TextChannel)
    made = await parent.create_thread(name="owls", type=discord.ChannelType.public_thread)
    (thread,) = [thread for thread in channel.threads if thread.id == made.id]
    return thread


async def refused(stage: Stage, channel: Any, command: str, **options: Any) -> bool:
    answer = await stage.alice.slash(channel, command, **options)
    if answer.response.content != SENTENCE:
        return False
    assert answer.ephemeral
    assert not answer.response.attachments
    return True


async def test_a_picture_for_adults_is_neither_varied_nor_shown_in_an_open_channel(
    stage: Stage, adults: Any
) -> None:
    await made_in(stage, adults)
    assert await refused(stage, stage.channel, "vary", image="1-1", strength=0.05)
    assert await refused(stage, stage.channel, "history", search="rabbit")
    assert await refused(stage, stage.channel, "history", search="1")
    assert await stage.bot.service.jobs.get(2) is None
    assert stage.messages() == []

    shown = await stage.alice.slash(adults, "history", search="rabbit")
    assert "seed 7" in shown.response.content
    await stage.alice.slash(adults, "vary", image="1-1")
    await stage.until(lambda: len([m for m in adults.history() if pictures(m)]) == 2)
    job = await stage.bot.service.jobs.get(2)
    assert job is not None
    assert job.age_restricted


@pytest.mark.parametrize("level", [discord.NSFWLevel.explicit, discord.NSFWLevel.age_restricted])
async def test_a_server_for_adults_has_no_open_channel(
    stage: Stage, level: discord.NSFWLevel
) -> None:
    guild = stage.bot.get_guild(stage.guild.id)
    assert guild is not None
    # SimCord sends no such mark; discord.py keeps it here.
    guild.nsfw_level = level
    await made_in(stage, stage.channel)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.age_restricted
    await stage.alice.slash(stage.channel, "vary", image="1-1")
    await stage.until(lambda: len([m for m in stage.messages() if pictures(m)]) == 2)

    guild.nsfw_level = discord.NSFWLevel.default
    assert await refused(stage, stage.channel, "vary", image="1-1")


async def test_prompts_from_there_are_not_suggested_or_listed_in_an_open_channel(
    stage: Stage, adults: Any
) -> None:
    await made_in(stage, adults, "rabbit face")
    await stage.imagine("pizza")
    for command, option in (("vary", "image"), ("history", "search")):
        for typed in ("", "rab", "1"):
            inside = await stage.alice.autocomplete(adults, command, option, typed)
            outside = await stage.alice.autocomplete(stage.channel, command, option, typed)
            assert "rabbit" in str(inside)
            assert "rabbit" not in str(outside)
    listed = (await stage.alice.slash(stage.channel, "history")).response.content
    assert "pizza" in listed
    assert "rabbit" not in listed
    assert "`1` made in an age-restricted channel; look at it there" in listed
    assert "rabbit" in (await stage.alice.slash(adults, "history")).response.content


async def test_suggestions_reach_past_many_restricted_pictures(stage: Stage, adults: Any) -> None:
    await stage.imagine("pizza")
    first = await stage.bot.service.jobs.get(1)
    assert first is not None
    await stage.bot.service.jobs._db.run(
        lambda db: (
            db.executescript(
                """
            WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
            INSERT INTO jobs (kind, status, user_id, guild_id, channel_id, request, created_at,
                              age_restricted)
                SELECT kind, 'delivered', user_id, guild_id, channel_id, request, created_at, 1
                FROM jobs, n WHERE id = 1
            """
            )
            and None
        )
    )
    outside = await stage.alice.autocomplete(stage.channel, "history", "search", "piz")
    assert [choice["value"] for choice in outside] == ["1"]


async def test_buttons_and_reactions_make_nothing_in_a_channel_that_is_open_now(
    stage: Stage, adults: Any
) -> None:
    message = await made_in(stage, adults)
    stage.restrict(adults, is_restricted=False)
    assert len(buttons(message)) == 3
    for button in [custom_id for custom_id in buttons(message) if "remove" not in custom_id]:
        denied = await stage.alice.click(message, custom_id=button)
        assert denied.response.content == SENTENCE
        assert denied.ephemeral
    for emoji in ("🔁", "🎲"):
        await stage.bob.react(message, emoji)
    await stage.until(lambda: [m for m in adults.history() if SENTENCE in m.content])
    assert await stage.bot.service.jobs.get(2) is None
    # What may be removed, may be removed anywhere.
    await stage.alice.react(message, "❌")
    await stage.until(lambda: message.id not in [m.id for m in adults.history()])


async def test_a_picture_without_a_mark_counts_as_its_channel_does_now(
    stage: Stage, adults: Any
) -> None:
    stage.restrict(adults, is_restricted=False)
    await made_in(stage, adults)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert not job.age_restricted
    assert not await refused(stage, stage.channel, "history", search="1")
    stage.restrict(adults)
    assert await refused(stage, stage.channel, "history", search="1")


async def test_a_thread_is_what_its_channel_is(stage: Stage, adults: Any) -> None:
    inside = await thread_below(stage, adults)
    outside = await thread_below(stage, stage.channel)
    await made_in(stage, inside)
    assert await refused(stage, outside, "vary", image="1-1")
    assert await refused(stage, stage.channel, "vary", image="1-1")
    assert not await refused(stage, adults, "history", search="1")
    assert not await refused(stage, inside, "history", search="1")


def forget(stage: Stage, thread: Any) -> None:
    """Have discord.py forget a thread, as it does with one that is archived."""
    stage.bot.guilds[0]._remove_thread(discord.Object(thread.id))  # type: ignore[arg-type]
    assert stage.bot.guilds[0].get_channel_or_thread(thread.id) is None


async def test_a_thread_that_is_archived_is_still_what_its_channel_is(
    stage: Stage, adults: Any
) -> None:
    stage.restrict(adults, is_restricted=False)
    inside, outside = await thread_below(stage, adults), await thread_below(stage, stage.channel)
    for thread in (inside, outside):
        await made_in(stage, thread)
        forget(stage, thread)
    # Only the channel says so: the job was asked for before.
    stage.restrict(adults)
    for image, is_refused in (("1-1", True), ("2-1", False)):
        job = image[0]
        assert await refused(stage, stage.channel, "vary", image=image) == is_refused
        assert await refused(stage, stage.channel, "history", search=job) == is_refused
    suggested = await stage.alice.autocomplete(stage.channel, "vary", "image", "")
    assert {choice["value"] for choice in suggested} >= {"2-1"}
    assert "1-1" not in {choice["value"] for choice in suggested}


async def test_pictures_of_an_unknown_thread_count_as_restricted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ages, "_SECONDS", 0.1)
    thread = await thread_below(stage, stage.channel)
    await made_in(stage, thread)
    forget(stage, thread)
    asked = f"/channels/{thread.id}"
    stage.env.inject_error("GET", asked, status=503, code=0, times=None)
    told = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert "Discord does not tell me now" in told.response.content
    assert told.ephemeral
    assert await stage.alice.autocomplete(stage.channel, "history", "search", "") == []
    stage.env.backend.faults.clear()
    assert await stage.alice.autocomplete(stage.channel, "history", "search", "") != []
    # Its parent is known by now.
    stage.env.inject_error("GET", asked, status=503, code=0, times=None)
    assert "seed 7" in (await stage.alice.slash(stage.channel, "history")).response.content


async def test_discord_is_asked_once_about_a_hidden_thread(
    stage: Stage,
) -> None:
    thread = await thread_below(stage, stage.channel)
    await made_in(stage, thread)
    forget(stage, thread)
    stage.env.inject_error("GET", f"/channels/{thread.id}", status=403, code=50001, times=1)
    for _ in range(2):
        assert await stage.alice.autocomplete(stage.channel, "history", "search", "") == []


def test_direct_messages_are_unrestricted_and_unknown_channels_are_unknown() -> None:
    assert restriction(mock.Mock(spec_set=discord.DMChannel)) is False
    assert restriction(None) is None
    thread = mock.Mock(spec=discord.Thread)
    thread.parent = None
    assert restriction(thread) is None


@pytest.mark.parametrize(
    ("marked", "now", "here"),
    list(itertools.product((False, True), (False, True, None), (False, True))),
)
def test_the_rule_for_ages_holds_in_every_case(marked: bool, now: bool | None, here: bool) -> None:
    channel = None if now is None else mock.Mock(is_nsfw=lambda: now)
    guild = mock.Mock(get_channel_or_thread=lambda _: channel)
    bot: Any = mock.Mock(get_guild=lambda _: guild)
    made: Any = mock.Mock(age_restricted=marked, guild_id=1, channel_id=2)
    known_ages = Ages(bot, InvalidRequests())
    if not here and (marked or now is not False):
        known = "made in an age-restricted channel" if marked or now else "does not tell me now"
        with pytest.raises(AgeRestricted, match=known):
            known_ages.check(made, is_restricted_here=here)
    else:
        known_ages.check(made, is_restricted_here=here)
