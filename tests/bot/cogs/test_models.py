"""Several models of the operator: who may use which, and what each picture is made with."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import discord
import pytest
import simcord

from bot.client import ImagineBot, MakeEngine, create_bot
from bot.config import Settings
from bot.listing import ListedModel
from bot.requests.loras import LoraOptions, Suggestion
from bot.requests.options import RequestOptions
from generation.engine.engine import Engine
from generation.engine.pool import EnginePool, Loadable
from generation.images.png import read_png
from generation.models.loading import load
from generation.models.locate import locate, starter_folder
from storage.records import JobKind, NewJob
from storage.states import JobStatus

from ..stage import Stage

ROLE = 777


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, which has the starter's weights and another hash."""
    folder = tmp_path_factory.mktemp("models") / "second"
    shutil.copytree(starter_folder(), folder)
    (folder / "defaults.json").unlink()
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    return folder


@pytest.fixture(scope="module")
def second(folder: Path) -> Engine:
    return Engine(load(locate(str(folder))), shared=False)


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        steps=2,
        progress_seconds=0.2,
        models=(
            ListedModel(name="Emoji", source="starter"),
            ListedModel(name="Second", source=str(folder), steps=3, licence="Apache 2.0"),
            ListedModel(name="For some", source=str(folder), roles={ROLE}, servers={8}),
            ListedModel(name="Filtered", source=str(folder), needs_filter=True),
            ListedModel(name="Missing", source=str(tmp_path / "nowhere")),
        ),
    )


@pytest.fixture
def make_engine(engine: Engine, second: Engine) -> MakeEngine:
    models = {name: Loadable(lambda _: second, 1) for name in ("Second", "For some", "Filtered")}
    return lambda: EnginePool({"Emoji": Loadable(lambda _: engine, 1), **models})


@pytest.fixture
def simcord_bot(settings: Settings, make_engine: MakeEngine) -> ImagineBot:
    return create_bot(settings, make_engine=make_engine)


@pytest.fixture
async def stage(
    simcord_env: simcord.Env, settings: Settings, make_engine: MakeEngine
) -> AsyncIterator[Stage]:
    stage = Stage(simcord_env, settings, make_engine)
    yield stage
    await stage.bot.close()


async def model_of(message: discord.Message) -> tuple[str, int]:
    """Return which model made a picture, by its file, and in how many steps."""
    recipe = read_png(await message.attachments[0].read())[1]
    return recipe.model, recipe.steps


async def refusal(stage: Stage, **options: object) -> str:
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", **options)
    assert result.ephemeral
    return str(result.response.content)


async def test_a_person_chooses_the_model_and_the_message_names_it(stage: Stage) -> None:
    message = await stage.imagine(model="second")
    assert await model_of(message) == ("second", 3)
    assert " · Second · " not in message.content
    assert message.content.splitlines()[1].startswith("Second · seed ")
    message = await stage.imagine()
    assert await model_of(message) == ("starter", 2)
    assert message.content.splitlines()[1].startswith("Emoji · seed ")


async def test_again_and_vary_keep_the_model_of_the_picture(stage: Stage) -> None:
    message = await stage.imagine(model="Second")
    for custom_id in ("rerun:1", "vary:1:1"):
        result = await stage.bob.click(message, custom_id=custom_id)
        assert await model_of(await stage.finished(result.response.id)) == ("second", 3)
    result = await stage.bob.slash(stage.channel, "vary", image="1", model="Emoji")
    assert (await model_of(await stage.finished(result.response.id)))[0] == "starter"


async def test_vary_suggests_loras_for_the_model_of_the_picture(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        LoraOptions, "suggest", lambda options, *_: [Suggestion(options._profile.name, ())]
    )
    await stage.imagine(model="Second")

    async def suggested(**filled: str) -> list[str]:
        found = await stage.alice.autocomplete(stage.channel, "vary", "lora", "", **filled)
        return [choice["value"] for choice in found]

    assert await suggested(image="1-1") == ["second"]
    assert await suggested(image="1-1", model="Emoji") == ["starter"]
    assert await suggested(model="Second") == ["second"]
    for image in ("77-1", "rabbit"):
        assert await suggested(image=image) == ["starter"]
    assert await suggested() == ["starter"]


async def test_only_the_models_that_a_person_may_use_are_suggested_and_listed(stage: Stage) -> None:
    async def suggested(typed: str) -> list[str]:
        found = await stage.alice.autocomplete(stage.channel, "imagine", "model", typed)
        return [choice["value"] for choice in found]

    assert await suggested("") == ["Emoji", "Second"]
    assert await suggested("SEC") == ["Second"]
    assert await suggested("filt") == []
    listed = await stage.alice.slash(stage.channel, "models")
    assert listed.ephemeral
    assert listed.response.content.splitlines() == [
        "**Emoji** · licence: MIT · used when you name none",
        r"**Second** · licence: Apache 2.0",
    ]


async def test_a_role_opens_a_model(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await refusal(stage, model="For some") == (
        "You may not use the model For some here; /models lists those that you may use."
    )
    monkeypatch.setattr(
        discord.Member, "roles", property(lambda _: [discord.Object(ROLE), discord.Object(1)])
    )
    message = await stage.imagine(model="For some")
    assert (await model_of(message))[0] == "second"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("nothing", "There is no model 'nothing' here; /models lists those that are."),
        (
            "Filtered",
            "The licence of the model Filtered demands a content filter, which is off here; choose "
            "another model with /models.",
        ),
        (
            "missing",
            "The model Missing cannot be used at present; ask the operator to run imagine-bot "
            "doctor.",
        ),
    ],
)
async def test_a_model_that_cannot_be_used_is_refused_in_a_sentence(
    stage: Stage, model: str, sentence: str
) -> None:
    assert await refusal(stage, model=model) == sentence


async def test_a_model_that_was_taken_off_the_list_is_missed_in_a_sentence(
    stage: Stage, settings: Settings
) -> None:
    message = await stage.imagine(model="Second")
    await stage.bot.close()
    left = settings.model_copy(update={"models": settings.models[:1]})
    await stage.env.restart_bot(create_bot(left, make_engine=stage.make_engine))
    result = await stage.alice.click(message, custom_id="rerun:1")
    assert result.ephemeral
    assert result.response.content == (
        "This picture was made by the model Second, which is not here any more; use another one "
        "with /imagine."
    )


async def test_a_renamed_model_is_known_by_its_pictures(
    stage: Stage, settings: Settings, folder: Path, make_engine: MakeEngine
) -> None:
    message = await stage.imagine(model="Second")
    await stage.bot.close()
    renamed = (settings.models[0], ListedModel(name="For some", source=str(folder)))
    left = settings.model_copy(update={"models": renamed})
    await stage.env.restart_bot(create_bot(left, make_engine=make_engine))
    result = await stage.alice.click(message, custom_id="rerun:1")
    assert (await model_of(await stage.finished(result.response.id)))[0] == "second"


async def test_a_waiting_job_of_a_model_that_is_gone_is_answered(
    stage: Stage, settings: Settings, engine: Engine
) -> None:
    request = stage.bot.offer.find("Second").builder.imagine(
        RequestOptions(prompt="rabbit face"), guild_id=None
    )
    new = await stage.bot.service.jobs.add(
        NewJob(
            kind=JobKind.IMAGINE,
            user_id=stage.alice.id,
            guild_id=stage.guild.id,
            channel_id=stage.channel.id,
            request=request,
        )
    )
    await stage.bot.close()
    left = settings.model_copy(update={"models": settings.models[:1]})
    pool = EnginePool({"Emoji": Loadable(lambda _: engine, 1)})
    await stage.env.restart_bot(create_bot(left, make_engine=lambda: pool))

    async def has_failed() -> bool:
        stored = await stage.bot.service.jobs.record(new.id)
        return stored is not None and stored.status is JobStatus.FAILED

    await stage.eventually(has_failed)
    assert any(
        "There is no model 'Second' any more; choose another one." in message.content
        for message in stage.messages()
    )
