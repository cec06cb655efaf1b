from __future__ import annotations

import discord
import pytest
from simcord import OptionError

from bot.requests.options import RequestOptions
from generation.engine.engine import Engine
from generation.images.pillow import enlarged, to_image
from generation.images.png import read_png
from generation.schedulers.registry import REGISTRY

from ...generation.examples import EDGE, STARTER
from ..stage import GatedEngine, Stage, button_actions, opened, pictures


async def test_a_prompt_is_answered_with_its_picture(stage: Stage, engine: Engine) -> None:
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", seed=7)
    assert result.acknowledged
    assert not result.ephemeral
    message = await stage.finished(result.response.id)

    guidance = f"{STARTER.default_guidance_scale:g}"
    assert message.content.splitlines() == [
        f"**rabbit face** — {stage.alice.mention}",
        f"seed 7 · {EDGE}×{EDGE} · 2 steps · guidance {guidance} · DDIM · job 1",
    ]
    assert button_actions(message) == ["rerun:1", "vary:1:1", "remove:1"]
    made = engine.generate(
        stage.bot.offer.default.builder.imagine(
            RequestOptions(prompt="rabbit face", seed=7), guild_id=None
        )
    )[0]
    shown = await opened(message.attachments[0])
    assert shown.size == (256, 256)
    assert shown.convert("RGB").tobytes() == enlarged(to_image(made.pixels), 256 // EDGE).tobytes()


async def test_the_file_in_discord_carries_the_whole_recipe(stage: Stage) -> None:
    message = await stage.imagine("a pizza on a blue background", seed=3, scheduler="lms")
    _, recipe, parameters = read_png(await message.attachments[0].read())
    assert (recipe.prompt, recipe.seed, recipe.scheduler) == (
        "a pizza on a blue background",
        3,
        "lms",
    )
    assert parameters.startswith("a pizza on a blue background\nSteps: 2, Sampler: LMS")


async def test_a_scheduler_by_another_programs_name_and_a_spacing_make_the_picture(
    stage: Stage,
) -> None:
    message = await stage.imagine(
        "a pizza on a blue background", seed=3, scheduler="DPM++ 2M", spacing="karras"
    )
    assert " · DPM++ 2M Karras · " in message.content
    _, recipe, parameters = read_png(await message.attachments[0].read())
    assert (recipe.scheduler, recipe.spacing) == ("dpmpp_2m", "karras")
    assert ", Sampler: DPM++ 2M, " in parameters
    assert ", Schedule type: Karras, " in parameters


async def test_discord_suggests_the_schedulers_that_fit_the_model(stage: Stage) -> None:
    async def suggested(typed: str) -> list[tuple[object, object]]:
        choices = await stage.alice.autocomplete(stage.channel, "imagine", "scheduler", typed)
        return [(choice["name"], choice["value"]) for choice in choices]

    assert await suggested("") == [(row.label, name) for name, row in REGISTRY.items()]
    assert await suggested("2m") == [
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde"),
    ]


async def test_several_pictures_have_consecutive_seeds_numbers_and_alt_texts(stage: Stage) -> None:
    message = await stage.imagine("red apple", seed=2**32 - 1, count=3)
    names = [file.filename for file in message.attachments]
    assert names == ["imagine-1-1.png", "imagine-1-2.png", "imagine-1-3.png"]
    assert f"seeds {2**32 - 1} to 1 · " in message.content
    recipes = [read_png(await file.read())[1] for file in message.attachments]
    assert [recipe.seed for recipe in recipes] == [2**32 - 1, 0, 1]
    assert [file.description for file in message.attachments] == [
        f"Picture {number} of 3, generated: red apple (seed {recipe.seed})"
        for number, recipe in enumerate(recipes, start=1)
    ]
    assert button_actions(message) == ["rerun:1", "remove:1", "vary:1:1", "vary:1:2", "vary:1:3"]


async def test_every_option_reaches_the_recipe(stage: Stage) -> None:
    message = await stage.imagine(
        "tiger",
        negative_prompt="blue",
        seed=5,
        steps=3,
        guidance_scale=7.5,
        width=96,
        height=64,
        scheduler="ddim",
        count=2,
    )
    recipe = read_png(await message.attachments[1].read())[1]
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("tiger", "blue", 6)
    assert (recipe.steps, recipe.guidance_scale, recipe.scheduler) == (3, 7.5, "ddim")
    assert (recipe.width, recipe.height) == (96, 64)
    assert (await opened(message.attachments[0])).size == (288, 192)
    assert "without: blue" in message.content


async def test_a_prompt_pings_nobody_and_its_markup_is_harmless(stage: Stage) -> None:
    prompt = f"**@everyone** {stage.bob.mention} `code` https://example.com/x"
    message = await stage.imagine(prompt)
    assert not message.mention_everyone
    sent = [entry for entry in stage.env.http_requests if entry.method in ("POST", "PATCH")]
    bodies = [entry.json.get("data", entry.json) for entry in sent if entry.json]
    contents = [body for body in bodies if body.get("content")]
    assert len(contents) >= 2
    assert all(body["allowed_mentions"]["parse"] == [] for body in contents)
    assert r"\*\*@everyone\*\*" in message.content
    assert message.flags.suppress_embeds


async def test_words_that_the_model_did_not_read_are_named(stage: Stage) -> None:
    message = await stage.imagine("rabbit face " + "on a blue background " * 5)
    assert "did not read: “background”" in message.content


async def test_progress_and_place_in_the_queue_are_edited_into_the_message(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    first = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", steps=8)
    second = await stage.bob.slash(stage.channel, "imagine", prompt="cat face")
    third = await stage.bob.slash(stage.channel, "imagine", prompt="dog face")
    await stage.until(lambda: "▱ 0 %" in stage.look(first.response.id).content)
    await stage.until(lambda: "in the queue" in stage.look(second.response.id).content)
    await stage.until(lambda: "in the queue" in stage.look(third.response.id).content)
    await stage.waits_at(third.response.id, 2)
    gate.open()
    for result in (first, second, third):
        message = await stage.finished(result.response.id)
        assert "▰" not in message.content
    assert len(stage.messages()) == 3


async def test_a_dead_interaction_token_loses_nothing(stage: Stage, gate: GatedEngine) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.env.advance_time(16 * 60)
    gate.open()
    assert (await stage.finished(result.response.id)).attachments


async def test_an_emoji_is_read_by_its_name(stage: Stage) -> None:
    message = await stage.imagine("🦉 on a blue background", negative_prompt="❤️")
    assert message.content.startswith("**🦉 on a blue background**")
    recipe = read_png(await message.attachments[0].read())[1]
    assert (recipe.prompt, recipe.negative_prompt) == ("🦉 on a blue background", "❤️")
    read = (recipe.read_prompt, recipe.read_negative_prompt)
    assert read == ("owl on a blue background", "red heart")


async def test_an_answer_that_discord_refuses_is_posted_again(stage: Stage) -> None:
    stage.env.inject_error("POST", "/interactions/*", status=404, code=10062, times=None)
    await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.until(lambda: [m for m in stage.messages() if pictures(m)])
    assert len(stage.messages()) == 1


async def test_discord_failing_for_a_while_delays_the_pictures_only(stage: Stage) -> None:
    stage.env.inject_error("PATCH", "/channels/*/messages/*", status=503, times=2)
    message = await stage.imagine("rabbit face")
    assert len(message.attachments) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 10_000},
        {"seed": -1},
        {"seed": 2**40},
        {"seed": "seven"},
        {"spacing": "wide"},
        {"count": 5},
        {"prompt": "x" * 1_001},
        {"width": 4_096},
    ],
    ids=str,
)
async def test_discord_itself_refuses_what_the_options_rule_out(
    stage: Stage, wrong: dict[str, object]
) -> None:
    options = {"prompt": "rabbit face", **wrong}
    with pytest.raises(OptionError):
        await stage.alice.slash(stage.channel, "imagine", **options)
    assert stage.messages() == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"prompt": "   "}, "The prompt is empty; say what you want to see."),
        (
            {"scheduler": "restart"},
            f"There is no scheduler 'restart'; choose one of {', '.join(REGISTRY)}.",
        ),
        (
            {"scheduler": "lcm", "spacing": "karras"},
            "The scheduler lcm has no spacing karras; leave it out.",
        ),
        ({"width": 100}, "The width is 100, which is not a multiple of 8; use 96 or 104."),
        (
            {"width": 4 * EDGE},
            f"A width of at most {EDGE} is allowed here with this model; you asked for {4 * EDGE}.",
        ),
    ],
    ids=str,
)
async def test_other_mistakes_are_answered_in_private_with_one_sentence(
    stage: Stage, wrong: dict[str, object], sentence: str
) -> None:
    options = {"prompt": "rabbit face", **wrong}
    result = await stage.alice.slash(stage.channel, "imagine", **options)
    assert result.ephemeral
    assert result.response.content == sentence
    assert (await stage.imagine("rabbit face")).attachments


async def test_a_channel_where_the_bot_may_not_post_is_refused_at_once(stage: Stage) -> None:
    hidden = stage.guild.create_text_channel(
        "hidden",
        overwrites={
            stage.guild.default_role: discord.PermissionOverwrite(view_channel=False),
            stage.alice: discord.PermissionOverwrite(view_channel=True),
        },
    )
    result = await stage.alice.slash(hidden, "imagine", prompt="rabbit face")
    assert result.ephemeral
    assert result.response.content == (
        "I could not show you the pictures in this channel; ask an admin to give me these "
        "permissions here: View Channel."
    )


async def test_a_direct_message_works_like_a_channel(stage: Stage) -> None:
    user = stage.env.create_user("dora")
    result = await user.slash("imagine", prompt="rabbit face")
    channel = user.dm_channel
    await stage.until(
        lambda: [m for m in channel.history() if m.id == result.response.id and pictures(m)]
    )
