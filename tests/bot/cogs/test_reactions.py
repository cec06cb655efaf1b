from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import discord
import pytest

from generation.images.png import read_png

from ..stage import GatedEngine, Stage, pictures


async def test_a_rerun_reaction_by_anybody_makes_new_pictures(stage: Stage) -> None:
    first = await stage.imagine("rabbit face", seed=7)
    await stage.bob.react(first, "🔁")
    await stage.until(lambda: len([m for m in stage.messages() if pictures(m)]) == 2)
    second = stage.messages()[1]
    assert stage.bob.mention in second.content
    assert second.reference is not None
    assert second.reference.message_id == first.id
    recipe = read_png(await second.attachments[0].read())[1]
    assert recipe.prompt == "rabbit face"
    assert recipe.seed != 7


async def test_a_dice_reaction_varies_the_first_picture(stage: Stage) -> None:
    first = await stage.imagine("rabbit face")
    await stage.bob.react(first, "🎲")
    await stage.until(lambda: len([m for m in stage.messages() if pictures(m)]) == 2)
    recipe = read_png(await stage.messages()[1].attachments[0].read())[1]
    assert recipe.source_sha256 == read_png(await first.attachments[0].read())[1].pixels_sha256


async def test_reactions_work_on_pictures_from_before_a_restart(stage: Stage) -> None:
    first = await stage.imagine("rabbit face")
    await stage.restart()
    assert not list(stage.bot.cached_messages)
    await stage.bob.react(first, "🔁")
    await stage.until(lambda: len([m for m in stage.messages() if pictures(m)]) == 2)


async def test_a_cross_by_the_person_who_asked_or_a_moderator_removes(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    await stage.bob.react(message, "❌")
    assert len(stage.messages()) == 1
    await stage.mo.react(message, "❌")
    await stage.until(lambda: not stage.messages())


async def test_a_cross_cancels_a_job_that_waits(stage: Stage, gate: GatedEngine) -> None:
    gate.shut()
    await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    waiting = await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    await stage.alice.react(stage.look(waiting.response.id), "❌")
    await stage.until(lambda: "cancelled" in stage.look(waiting.response.id).content)


async def test_people_who_may_not_use_commands_here_make_nothing_by_reacting(
    stage: Stage,
) -> None:
    quiet = stage.guild.create_text_channel(
        "gallery",
        overwrites={
            stage.bob: discord.PermissionOverwrite(use_application_commands=False),
        },
    )
    result = await stage.alice.slash(quiet, "imagine", prompt="rabbit face")
    await stage.until(lambda: pictures(quiet.history()[0]))
    await stage.bob.react(quiet.history()[0], "🔁")
    await stage.alice.react(quiet.history()[0], "🔁")
    await stage.until(lambda: len([m for m in quiet.history() if pictures(m)]) == 2)
    assert await stage.bot.service.jobs.get(3) is None
    assert result.response.id in {message.id for message in quiet.history()}


async def test_other_reactions_and_other_people_s_messages_are_left_alone(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    await stage.bob.react(message, "👍")
    chat = await stage.alice.send(stage.channel, "nice rabbit")
    await stage.bob.react(chat, "🔁")
    await stage.bob.react(chat, "❌")
    assert len(stage.messages()) == 2
    assert await stage.bot.service.jobs.get(2) is None


async def test_the_bot_s_own_reactions_do_nothing(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    other = stage.guild.add_member(stage.env.create_user("helper", bot=True))
    await other.react(message, "🔁")
    assert await stage.bot.service.jobs.get(2) is None


@pytest.mark.parametrize("error", [TypeError("a page of a proxy"), ConnectionResetError()])
async def test_a_stray_answer_about_who_reacted_ends_in_no_trace(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def garbled(_user_id: int) -> discord.User:
        raise error

    monkeypatch.setattr(stage.bot, "fetch_user", garbled)
    cog: Any = stage.bot.get_cog("Reactions")
    payload: Any = SimpleNamespace(guild_id=None, user_id=1, message_id=2)
    assert await cog._person(payload) is None
