"""Prompts as phones and Discord write them, from the person to the model and back."""

from __future__ import annotations

import io

import discord
import pytest

from generation.images.png import read_png
from generation.values.request import PROMPT_LENGTH

from ..stage import Stage


async def read_by_the_model(message: discord.Message) -> tuple[str | None, str]:
    """Return what the model was told, and what it did not read."""
    file = message.attachments[0]
    recipe = read_png(io.BytesIO(await file.read()).getvalue())[1]
    return recipe.read_prompt, recipe.unread_prompt


async def test_the_message_shows_what_was_typed_and_the_model_reads_it_plainly(
    stage: Stage,
) -> None:
    message = await stage.imagine("“🍕” on a\u00a0blue back\u200bground")
    assert "“🍕” on a blue background" in message.content
    assert await read_by_the_model(message) == ('" pizza " on a blue background', "")
    assert "did not read" not in message.content


async def test_a_custom_emoji_is_read_by_its_name_and_shown_as_it_is(stage: Stage) -> None:
    emoji = "<:rabbit:1234567890123456789>"
    message = await stage.imagine(f"{emoji} on a blue background")
    assert emoji in message.content
    assert await read_by_the_model(message) == ("rabbit on a blue background", "")


async def test_mentions_are_shown_and_read_by_name_and_ping_nobody(stage: Stage) -> None:
    typed = f"<@{stage.bob.id}> and <#{stage.channel.id}> and <@123456789012345678>"
    message = await stage.imagine(typed)
    assert "@bob and \\#pictures and" in message.content.replace("\\@", "@")
    assert stage.bob.id not in [user.id for user in message.mentions]
    told, _ = await read_by_the_model(message)
    assert told == "bob and pictures and somebody"


async def test_names_make_no_prompt_too_long_that_discord_took(stage: Stage) -> None:
    named = stage.guild.create_text_channel("rabbits-" * 10 + "live-here")
    typed = f"<#{named.id}> {'on a blue background ' * 50}"[:PROMPT_LENGTH]
    message = await stage.imagine(typed)
    told, _ = await read_by_the_model(message)
    assert told is not None
    assert told.startswith("rabbits-rabbits-rabbi on a blue background")


async def test_an_emoji_that_the_model_does_not_know_is_named(stage: Stage) -> None:
    message = await stage.imagine("a cat and 👩\u200d🚀")
    assert "did not read: “👩\u200d🚀”" in message.content


async def test_a_rerun_and_a_variation_show_what_was_typed_too(stage: Stage) -> None:
    message = await stage.imagine("🍕 on blue")
    again = await stage.bob.click(message, custom_id="rerun:1")
    for result in (again, await stage.bob.slash(stage.channel, "vary", image="1-1")):
        assert result.response is not None
        made = await stage.finished(result.response.id)
        assert "🍕 on blue" in made.content
        assert (await read_by_the_model(made))[0] == "pizza on blue"


async def test_a_picture_is_found_by_what_was_typed_and_by_what_was_read(stage: Stage) -> None:
    await stage.imagine("🍫 on blue")
    for search in ("🍫", "chocolate", "on choco", "blue"):
        result = await stage.alice.slash(stage.channel, "history", search=search)
        assert result.response is not None
        assert "🍫 on blue" in result.response.content


async def test_a_prompt_of_invisible_characters_is_refused(stage: Stage) -> None:
    result = await stage.alice.slash(stage.channel, "imagine", prompt="\u200b\u200e")
    assert result.ephemeral
    assert "no visible character" in result.response.content


@pytest.mark.parametrize(
    "typed",
    [
        "[x](https://evil.example) https://evil.example/a",
        "discord.gg/abc and www.evil.example",
        "<https://evil.example> mailto:a@evil.example",
        "a\u202egnp.exe \u2066b",
    ],
)
async def test_links_invitations_and_marks_of_direction_are_inert(stage: Stage, typed: str) -> None:
    message = await stage.imagine(typed)
    line = message.content.splitlines()[0]
    for live in ("://", "d.gg", "l.example", "mailto:", "](", "\u202e", "\u2066"):
        assert live not in line


@pytest.mark.parametrize(
    "error", [TypeError("a page of a proxy"), KeyError("user"), ConnectionResetError()]
)
async def test_a_stray_answer_about_a_name_loses_no_order(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def garbled(_guild: discord.Guild, _member_id: int) -> discord.Member:
        raise error

    monkeypatch.setattr(discord.Guild, "fetch_member", garbled)
    message = await stage.imagine("<@123456789012345678> on blue")
    assert (await read_by_the_model(message))[0] == "somebody on blue"
