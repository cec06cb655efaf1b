"""/edit: pictures by an instruction about others."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import discord
import pytest
import simcord
from PIL import Image

from bot.client import ImagineBot, MakeEngine, create_bot
from bot.config import Settings
from bot.interactions.requester import Requester
from bot.listing import ListedModel
from bot.memory import PictureMemory
from bot.requests.options import RequestOptions
from generation.engine.engine import Engine
from generation.engine.pool import EnginePool, Loadable
from generation.errors import InvalidSource
from generation.images.limits import SOURCE_BYTES_MAX
from generation.images.pillow import as_reference, to_pixels
from generation.images.png import read_png
from generation.models.loading import load
from generation.models.locate import locate
from generation.values.recipe import Recipe
from generation.values.request import REFERENCE_AREA_MAX
from storage.records import JobKind

from ...generation.flux2_klein import make_flux2_klein
from ..permissions.test_integrations import Server
from ..stage import GatedEngine, Stage, buttons, pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "klein"
    make_flux2_klein(folder)
    return folder


@pytest.fixture(scope="module")
def klein(folder: Path) -> Engine:
    return Engine(load(locate(str(folder)), device="cpu", dtype="float32"), shared=False)


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        progress_seconds=0.2,
        models=(
            ListedModel(name="Emoji", source="starter", steps=2),
            ListedModel(name="Klein", source=str(folder), steps=2),
        ),
    )


class GatedPool(GatedEngine):
    """Several engines behind one gate."""

    def __init__(self, pool: EnginePool) -> None:
        super().__init__(cast("Engine", pool))
        self.load = pool.load


@pytest.fixture
def gate(engine: Engine, klein: Engine) -> GatedPool:
    engines = {"Emoji": engine, "Klein": klein}
    return GatedPool(
        EnginePool({name: Loadable(lambda _, one=one: one, 1) for name, one in engines.items()})
    )


@pytest.fixture
def make_engine(gate: GatedPool) -> MakeEngine:
    return lambda: gate


@pytest.fixture
def simcord_bot(settings: Settings, make_engine: MakeEngine) -> ImagineBot:
    return create_bot(settings, make_engine=make_engine)


@pytest.fixture
async def stage(
    simcord_env: simcord.Env, settings: Settings, make_engine: MakeEngine, gate: GatedPool
) -> AsyncIterator[Stage]:
    stage = Stage(simcord_env, settings, make_engine)
    yield stage
    gate.open()
    await stage.bot.close()


def photo(color: str, width: int = 96, height: int = 64) -> tuple[str, bytes]:
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return f"{color}.png", file.getvalue()


def sha256(color: str, width: int = 96, height: int = 64) -> str:
    image = as_reference(Image.new("RGB", (width, height), color), 16)
    return to_pixels(image, *image.size).sha256


async def edit(stage: Stage, **options: Any) -> discord.Message:
    result = await stage.alice.slash(stage.channel, "edit", instruction="make it winter", **options)
    return await stage.finished(result.response.id)


async def recipe_of(message: discord.Message) -> Recipe:
    return read_png(await message.attachments[0].read())[1]


async def refusal(stage: Stage, **options: Any) -> str:
    result = await stage.alice.slash(
        stage.channel, "edit", **{"instruction": "make it winter", **options}
    )
    assert result.ephemeral
    return str(result.response.content)


async def test_uploads_are_edited_in_their_order_by_the_model_that_can(stage: Stage) -> None:
    message = await edit(stage, image=photo("orange"), image_3=photo("blue", 70, 80), seed=3)
    recipe = await recipe_of(message)
    assert recipe.reference_sha256 == [sha256("orange"), sha256("blue", 70, 80)]
    assert (recipe.prompt, recipe.model, recipe.seed) == ("make it winter", "klein", 3)
    assert recipe.guidance_scale == 1.0
    assert "edit of 2 pictures" in message.content
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert (job.kind, job.request.model) == (JobKind.EDIT, "Klein")


async def test_a_picture_of_the_bot_is_edited_and_can_be_edited_again(stage: Stage) -> None:
    await stage.imagine("rabbit face", width=64, height=64)
    message = await edit(stage, picture="1-1", image=photo("red"))
    parent = (await stage.bot.service.jobs.images(1))[0]
    recipe = await recipe_of(message)
    assert recipe.reference_sha256 == [parent.recipe.pixels_sha256, sha256("red")]
    assert "edit of 1-1 and a picture" in message.content
    assert (await stage.bot.service.jobs.images(2))[0].parent_image_id == parent.id


async def test_an_edit_runs_again_with_the_same_references_and_another_seed(stage: Stage) -> None:
    first = await edit(stage, image=photo("orange"), seed=3)
    await stage.alice.click(first, custom_id="rerun:1")
    newest = await stage.until(lambda: next((m for m in stage.messages() if m.id > first.id), None))
    again, before = await recipe_of(await stage.finished(newest.id)), await recipe_of(first)
    assert again.reference_sha256 == before.reference_sha256
    assert again.seed != before.seed


async def test_an_edit_and_its_rerun_run_again_for_those_who_may_edit(stage: Stage) -> None:
    server = Server(stage)
    first = await edit(stage, image=photo("orange"))
    result = await stage.alice.click(first, custom_id="rerun:1")
    again = await stage.finished(result.response.id)
    server.set("edit", ("bob", False))
    for message, button in ((first, "rerun:1"), (again, "rerun:2")):
        refused = await stage.bob.click(message, custom_id=button)
        assert refused.ephemeral
        assert "You may not use /edit in this channel" in refused.response.content
    server.set("edit", ("bob", True))
    server.set("imagine", ("bob", False))
    assert await server.may_press(first, "rerun:1")


async def test_a_variation_of_an_edit_follows_the_instruction_about_the_same_references(
    stage: Stage,
) -> None:
    first = await edit(stage, image=photo("orange"), seed=3)
    result = await stage.bob.click(first, custom_id="vary:1:1")
    message = await stage.finished(result.response.id)
    made, before = await recipe_of(message), await recipe_of(first)
    assert (made.prompt, made.model) == ("make it winter", "klein")
    assert made.reference_sha256 == before.reference_sha256
    assert made.source_sha256 == before.pixels_sha256
    refused = await stage.alice.slash(stage.channel, "vary", image="1-1", model="Emoji")
    assert "the model Emoji cannot edit; add a prompt" in refused.response.content


async def test_an_edit_is_made_after_a_restart(stage: Stage, gate: GatedPool) -> None:
    gate.shut()
    result = await stage.alice.slash(
        stage.channel, "edit", instruction="make it winter", image=photo("orange")
    )
    closing = stage.restart()
    gate.open()
    await closing
    message = await stage.finished(result.response.id)
    assert (await recipe_of(message)).reference_sha256 == [sha256("orange")]


async def test_a_cancelled_edit_forgets_its_uploads_and_cannot_run_again(
    stage: Stage, gate: GatedPool
) -> None:
    gate.shut()
    result = await stage.alice.slash(
        stage.channel, "edit", instruction="make it winter", image=photo("orange")
    )
    message = stage.look(result.response.id)
    await stage.alice.click(message, custom_id="remove:1")
    gate.open()
    await stage.until(lambda: "cancelled" in stage.look(message.id).content)
    files = stage.settings.data / "pictures"
    await stage.until(lambda: not [path for path in files.rglob("*") if path.is_file()])
    assert not pictures(stage.look(message.id))
    assert len(buttons(stage.look(message.id))) == 1


async def test_all_references_of_an_edit_count_until_it_is_a_request(stage: Stage) -> None:
    cog: Any = stage.bot.get_cog("Edit")
    memory: PictureMemory = cog._uploads._memory
    held: list[int] = []

    def attachment(number: int) -> Any:
        _, data = photo("orange")

        async def read() -> bytes:
            held.append(memory.held)
            return data

        return mock.Mock(discord.Attachment, size=1_000 * number, read=read)

    requester = Requester(person=mock.Mock(id=1), guild_id=None, channel_id=1, origin="x")
    await cog._new_job(
        requester, None, [attachment(n) for n in (1, 3, 2)], RequestOptions(prompt="make it winter")
    )
    assert held == [3 * 3 * REFERENCE_AREA_MAX + 3_000] * 3
    assert memory.held == 0
    too_large = mock.Mock(discord.Attachment, size=SOURCE_BYTES_MAX + 1)
    with pytest.raises(InvalidSource):
        await cog._new_job(requester, None, [too_large], RequestOptions(prompt="make it winter"))
    assert memory.held == 0


MISTAKES: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "Say what to edit: add an image, or give picture, such as 42-1."),
    ({"picture": "77"}, "There is no picture"),
    ({"image": photo("red", 40, 40)}, "a reference needs at least 64 pixels on each side"),
    ({"image": photo("red", 64, 640)}, "at most 8 times as long as wide"),
    ({"image": ("a.png", b"nothing")}, "not an image that I can read"),
    ({"image": photo("red"), "model": "Emoji"}, "Emoji cannot edit by instruction"),
    ({"image": photo("red"), "model": "Other"}, "There is no model 'Other' here"),
    (
        {"picture": "1", **{f"image{n}": photo("red") for n in ("", "_2", "_3", "_4")}},
        "Klein reads at most 4 reference pictures; you gave 5",
    ),
)


async def test_a_mistake_gets_one_sentence(stage: Stage) -> None:
    for options, said in MISTAKES:
        assert said in await refusal(stage, **options)


async def test_only_models_that_can_edit_are_suggested(stage: Stage) -> None:
    choices = await stage.alice.autocomplete(stage.channel, "edit", "model", "")
    assert choices == [{"name": "Klein", "value": "Klein"}]


def test_a_bot_whose_models_cannot_edit_has_no_such_command(tmp_path: Path, engine: Engine) -> None:
    bot = create_bot(Settings(data=tmp_path / "data"), make_engine=lambda: engine)
    assert not bot.offer.can_edit
