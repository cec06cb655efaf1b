from __future__ import annotations

import pytest

from ..stage import Stage, button_actions, pictures


async def test_history_lists_one_s_own_pictures_newest_first_in_private(stage: Stage) -> None:
    await stage.imagine("rabbit face", seed=7)
    await stage.imagine("a pizza on a blue background", seed=8)
    result = await stage.alice.slash(stage.channel, "history")
    assert result.ephemeral
    lines = result.response.content.splitlines()
    assert lines[0].startswith("`2` **a pizza on a blue background** · seed 8 · <t:")
    assert lines[1].startswith("`1` **rabbit face** · seed 7 · <t:")
    assert f"https://discord.com/channels/{stage.guild.id}/{stage.channel.id}/" in lines[0]


async def test_history_of_somebody_else_is_not_shown(stage: Stage) -> None:
    await stage.imagine("rabbit face")
    result = await stage.bob.slash(stage.channel, "history", search="rabbit")
    assert result.response.content == ("None of your pictures match “rabbit”; try fewer words.")
    result = await stage.bob.slash(stage.channel, "history")
    assert result.response.content == "You have no pictures yet; make one with /imagine."


async def test_search_suggests_as_one_types_and_a_choice_shows_the_pictures(stage: Stage) -> None:
    await stage.imagine("rabbit face", seed=7)
    await stage.imagine("a pizza on a blue background")
    await stage.imagine("rabbit")
    choices = await stage.alice.autocomplete(stage.channel, "history", "search", "rab fa")
    assert choices == [{"name": "1 · rabbit face", "value": "1"}]
    result = await stage.alice.slash(stage.channel, "history", search="1")
    assert result.ephemeral
    assert "seed 7" in result.response.content
    assert len(result.response.attachments) == 1
    assert button_actions(result.response.message) == ["rerun:1", "vary:1:1", "remove:1"]


@pytest.mark.parametrize("typed", ['"', "*", "rabbit OR", "NEAR(", "-", "'; DROP TABLE jobs; --"])
async def test_anything_may_be_typed_into_the_search(stage: Stage, typed: str) -> None:
    await stage.imagine("rabbit face")
    result = await stage.alice.slash(stage.channel, "history", search=typed)
    assert result.ephemeral
    assert "went wrong" not in result.response.content
    await stage.alice.autocomplete(stage.channel, "history", "search", typed)


async def test_buttons_in_the_private_answer_make_public_pictures(stage: Stage) -> None:
    await stage.imagine("rabbit face")
    shown = await stage.alice.slash(stage.channel, "history", search="rabbit")
    result = await stage.alice.click(shown.response, custom_id="rerun:1")
    assert not result.ephemeral
    assert (await stage.finished(result.response.id)).attachments


async def test_a_removed_picture_is_out_of_the_history(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    await stage.remove(stage.alice, message)
    await stage.until(lambda: not stage.messages())
    result = await stage.alice.slash(stage.channel, "history", search="rabbit")
    assert "None of your pictures match" in result.response.content


async def test_a_picture_is_shown_even_if_its_source_is_gone(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    await stage.alice.click(message, custom_id="vary:1:1")
    (made,) = [other for other in stage.messages() if other.id != message.id]
    await stage.finished(made.id)
    (source,) = await stage.bot.service.jobs.images(1)
    for file in (stage.settings.data / "pictures").rglob(f"{source.sha256}*"):
        file.unlink()
    shown = await stage.alice.slash(stage.channel, "history", search="2")
    assert shown.response is not None
    assert "rabbit face" in shown.response.content
    assert pictures(shown.response.message)
