from __future__ import annotations

import discord
import pytest

from generation.images.png import read_png
from storage.records import JobKind
from storage.states import JobStatus

from ...generation.examples import EDGE
from ..stage import GatedEngine, Stage, button_actions, pictures


async def test_rerun_makes_the_same_recipe_with_a_new_seed(stage: Stage) -> None:
    first = await stage.imagine("rabbit face", seed=7, guidance_scale=6.0, count=2)
    result = await stage.bob.click(first, custom_id="rerun:1")
    again = await stage.finished(result.response.id)
    old = read_png(await first.attachments[0].read())[1]
    new = read_png(await again.attachments[0].read())[1]
    assert (new.prompt, new.guidance_scale, new.steps) == ("rabbit face", 6.0, old.steps)
    assert new.seed != old.seed
    assert len(again.attachments) == 2
    assert stage.bob.mention in again.content
    job = await stage.bot.service.jobs.get(2)
    assert job is not None
    assert job.kind is JobKind.RERUN


async def test_vary_makes_a_variation_of_the_numbered_picture(stage: Stage) -> None:
    first = await stage.imagine("rabbit face", seed=7, count=2)
    result = await stage.bob.click(first, custom_id="vary:1:2")
    varied = await stage.finished(result.response.id)
    recipe = read_png(await varied.attachments[0].read())[1]
    second = read_png(await first.attachments[1].read())[1]
    assert recipe.source_sha256 == second.pixels_sha256
    assert recipe.strength == stage.bot.offer.default.profile.default_strength


async def test_a_variation_can_be_run_again_and_varied_further(stage: Stage) -> None:
    first = await stage.imagine("rabbit face")
    varied = await stage.finished(
        (await stage.alice.click(first, custom_id="vary:1:1")).response.id
    )
    again = await stage.finished((await stage.alice.click(varied, custom_id="rerun:2")).response.id)
    further = await stage.finished(
        (await stage.alice.click(varied, custom_id="vary:2:1")).response.id
    )
    recipes = [
        read_png(await message.attachments[0].read())[1]
        for message in (first, varied, again, further)
    ]
    assert recipes[1].source_sha256 == recipes[2].source_sha256 == recipes[0].pixels_sha256
    assert recipes[3].source_sha256 == recipes[1].pixels_sha256


async def test_remove_deletes_the_message_and_the_picture(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    files = [p for p in (stage.settings.data / "pictures").rglob("*") if p.is_file()]
    assert len(files) == 1
    await stage.remove(stage.alice, message)
    await stage.until(lambda: not stage.messages())
    assert not files[0].exists()
    gone = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert "There is no picture 1-1" in gone.response.content


async def test_remove_cancels_a_job_at_its_next_step_and_leaves_the_others(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    results = [
        await stage.alice.slash(stage.channel, "imagine", prompt=prompt, steps=20)
        for prompt in ("rabbit face", "cat face", "dog face")
    ]
    running, waiting, other = (result.response.id for result in results)
    await stage.until(lambda: " 0 %" in stage.look(running).content)
    await stage.alice.click(stage.look(waiting), custom_id="remove:2")
    await stage.alice.click(stage.look(running), custom_id="remove:1")
    gate.open()
    await stage.until(lambda: "cancelled · job 1" in stage.look(running).content)
    await stage.until(lambda: "cancelled · job 2" in stage.look(waiting).content)
    assert (await stage.finished(other)).attachments
    assert not pictures(stage.look(running))
    assert button_actions(stage.look(running)) == ["rerun:1", "remove:1"]
    jobs = [await stage.bot.service.jobs.get(number) for number in (1, 2, 3)]
    assert [job.status for job in jobs if job] == [
        JobStatus.CANCELLED,
        JobStatus.CANCELLED,
        JobStatus.DELIVERED,
    ]


async def test_a_cancelled_job_can_be_run_again(stage: Stage, gate: GatedEngine) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.alice.click(stage.look(result.response.id), custom_id="remove:1")
    gate.open()
    await stage.until(lambda: "rerun:1" in button_actions(stage.look(result.response.id)))
    again = await stage.alice.click(stage.look(result.response.id), custom_id="rerun:1")
    assert (await stage.finished(again.response.id)).attachments


async def test_only_the_person_who_asked_or_a_moderator_removes(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    refused = await stage.bob.click(message, custom_id="remove:1")
    (told,) = refused.followups
    assert told.ephemeral
    assert told.content == (
        "Only the person who asked for this picture or a moderator can remove it."
    )
    assert len(stage.messages()) == 1
    await stage.remove(stage.mo, message)
    await stage.until(lambda: not stage.messages())


@pytest.mark.parametrize("button", ["rerun:1", "vary:1:1"])
async def test_people_who_may_not_use_commands_here_make_nothing_by_a_button(
    stage: Stage, button: str
) -> None:
    quiet = stage.guild.create_text_channel(
        "gallery",
        overwrites={stage.bob: discord.PermissionOverwrite(use_application_commands=False)},
    )
    await stage.alice.slash(quiet, "imagine", prompt="rabbit face")
    await stage.until(lambda: pictures(quiet.history()[0]))
    refused = await stage.bob.click(quiet.history()[0], custom_id=button)
    assert refused.ephemeral
    assert refused.response.content.startswith("You may not use commands in this channel")
    allowed = await stage.alice.click(quiet.history()[0], custom_id=button)
    assert not allowed.ephemeral
    job = await stage.bot.service.jobs.get(2)
    assert job is not None
    assert job.user_id == stage.alice.id
    assert await stage.bot.service.jobs.get(3) is None


async def test_old_buttons_keep_the_limits_of_today(stage: Stage) -> None:
    stage.settings = stage.settings.model_copy(update={"max_size": 160})
    await stage.restart()
    message = await stage.imagine("rabbit face", steps=30)
    large = await stage.imagine("rabbit face", width=160)
    stage.settings = stage.settings.model_copy(update={"max_steps": 3, "max_size": EDGE})
    await stage.restart()
    again = await stage.alice.click(stage.look(message.id), custom_id="rerun:1")
    assert "3 steps" in (await stage.finished(again.response.id)).content
    refused = await stage.alice.click(stage.look(large.id), custom_id="rerun:2")
    assert refused.response.content.startswith(f"A width of at most {EDGE} is allowed here")


@pytest.mark.parametrize("button", ["rerun:1", "vary:1:1", "remove:1"])
async def test_buttons_work_after_a_restart(stage: Stage, button: str) -> None:
    message = await stage.imagine("rabbit face")
    await stage.restart()
    result = await stage.alice.click(stage.look(message.id), custom_id=button)
    assert result.acknowledged
    if button.startswith("remove"):
        await stage.alice.click(result.followups[0], custom_id="delete:1")
        await stage.until(lambda: not stage.messages())
    else:
        assert (await stage.finished(result.response.id)).attachments
