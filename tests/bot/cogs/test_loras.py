"""LoRAs in Discord: suggested as one types, chosen by an option or in the prompt."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import simcord
from PIL import Image, PngImagePlugin

from bot.client import ImagineBot, MakeEngine, create_bot
from bot.config import Settings
from bot.engines import lora_library
from bot.listing import ListedLora
from generation.catalog.addons.loras import LoraLibrary
from generation.engine.engine import Engine
from generation.images.png import read_png
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.stable_diffusion import StableDiffusion

from ...generation import loras
from ..stage import Stage


@pytest.fixture(scope="module")
def starter() -> StableDiffusion:
    return load(locate("starter"), device="cpu", dtype="float32")  # type: ignore[return-value]


@pytest.fixture
def settings(tmp_path: Path, starter: StableDiffusion) -> Settings:
    found = loras.layers({"unet": starter.unet}, only="attn2.to_k")
    for name in ("ink", "Wash"):
        loras.save(loras.kohya(found), tmp_path / f"loras/{name}.safetensors")
    wide = {"unet.x.lora_A.weight": loras.torch.ones(2, 77), "unet.x.lora_B.weight": found[0].up}
    loras.save(wide, tmp_path / "loras/other model.safetensors")
    (tmp_path / "loras/broken.safetensors").write_bytes(b"broken")
    return Settings(
        data=tmp_path / "data",
        steps=2,
        progress_seconds=0.2,
        lora_folder=tmp_path / "loras",
        loras=(ListedLora(name="Wash", triggers=("wtrclr style",), weight=0.5),),
    )


@pytest.fixture
def make_engine(starter: StableDiffusion, settings: Settings) -> MakeEngine:
    engine = Engine(starter, shared=False, library=lora_library(settings))
    return lambda: engine


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


async def test_only_loras_that_fit_the_model_are_suggested(stage: Stage) -> None:
    async def suggested(typed: str) -> list[tuple[object, object]]:
        found = await stage.alice.autocomplete(stage.channel, "imagine", "lora", typed)
        return [(choice["name"], choice["value"]) for choice in found]

    wash = ("Wash (wtrclr style)", "Wash")
    assert await suggested("") == [("ink", "ink"), wash]
    assert await suggested("wtrclr") == [wash]
    assert await suggested("INK:0.8") == [("ink", "ink")]
    assert await suggested("ink:0.8, ") == [("ink:0.8, Wash (wtrclr style)", "ink:0.8, Wash")]
    assert await suggested("broken") == []


async def test_a_chosen_lora_makes_the_picture_and_its_message_and_a_rerun_say_so(
    stage: Stage,
) -> None:
    message = await stage.imagine("rabbit face <lora:ink:0.8>", lora="wash")
    recipe = read_png(await message.attachments[0].read())[1]

    def names(used: object) -> set[tuple[str, float]]:
        return {(lora["name"], lora["weight"]) for lora in used or ()}  # type: ignore[attr-defined]

    assert names(recipe.loras) == {("ink", 0.8), ("Wash", 0.5)}
    assert recipe.read_prompt == "rabbit face"
    assert "LoRA ink 0.8" in message.content
    for custom_id in ("rerun:1", "vary:1:1"):
        result = await stage.bob.click(message, custom_id=custom_id)
        again = await stage.finished(result.response.id)
        made = read_png(await again.attachments[0].read())[1]
        assert names(made.loras) == names(recipe.loras)
        assert made.read_prompt == "rabbit face"


def infotext(prompt: str) -> tuple[str, bytes]:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", f"{prompt}\nSteps: 20, Seed: 1")
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "orange").save(file, "PNG", pnginfo=chunks)
    return "a1111.png", file.getvalue()


async def test_loras_of_another_machine_in_a_file_are_left_out(stage: Stage) -> None:
    attached = infotext("red apple <lora:gone:1>, <lora:ink:0.5>")
    result = await stage.alice.slash(stage.channel, "vary", attachment=attached)
    message = await stage.finished(result.response.id)
    recipe = read_png(await message.attachments[0].read())[1]
    assert [(lora["name"], lora["weight"]) for lora in recipe.loras or ()] == [("ink", 0.5)]
    assert recipe.read_prompt == "red apple,"
    assert "gone" not in message.content


async def test_folders_are_read_on_a_thread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    readers, read = set[threading.Thread](), LoraLibrary.all

    def watched(library: LoraLibrary) -> Mapping[str, object]:
        readers.add(threading.current_thread())
        return read(library)

    monkeypatch.setattr(LoraLibrary, "all", watched)
    await stage.imagine("rabbit face <lora:ink>")
    result = await stage.alice.slash(
        stage.channel, "vary", attachment=infotext("red apple <lora:ink:0.5>")
    )
    await stage.finished(result.response.id)
    assert readers
    assert threading.current_thread() not in readers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora": "none"}, "There is no LoRA 'none'"),
        ({"lora": "ink:99"}, "from -10 to 10"),
        ({"prompt": "a cat <lora:ink:x>"}, "is no number"),
    ],
)
async def test_a_mistake_is_answered_in_one_sentence(
    stage: Stage, options: dict[str, str], said: str
) -> None:
    asked = {"prompt": "rabbit face", **options}
    result = await stage.alice.slash(stage.channel, "imagine", **asked)
    assert result.ephemeral
    assert said in result.response.content


async def test_a_lora_that_does_not_fit_fails_the_job_with_a_sentence(stage: Stage) -> None:
    result = await stage.alice.slash(
        stage.channel, "imagine", prompt="rabbit face", lora="other model"
    )
    said = "The LoRA other model is made for another kind of model than starter"
    await stage.until(lambda: said in stage.look(result.response.id).content)
