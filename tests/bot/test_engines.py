"""The description of an engine, which goes to the process that builds the engine."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.config import Settings
from bot.engines import decode_spec, encode_spec, start_engine
from generation.catalog.memory.denoiser import DenoiserFile
from generation.catalog.memory.savings import Savings
from generation.catalog.profile import ModelProfile
from generation.errors import EngineLost
from generation.models.locate import locate
from generation.workers.process import EngineProcess

from ..generation.examples import a_request

TOKEN = "MTIz.secret.secret"
SETTINGS = Settings(
    token=TOKEN,
    device="cuda:1",
    dtype="bfloat16",
    compile=True,
    deterministic=True,
    log_level="DEBUG",
    model_memory_gb=12.5,
    role_weights={7: 2.0},
)


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    return locate("starter")


@pytest.fixture(scope="module")
def profiles(profile: ModelProfile) -> dict[str, ModelProfile]:
    return {"Z": profile, "A": dataclasses.replace(profile, native_size=64)}


def test_a_description_comes_back_as_it_was_without_a_secret(
    profiles: dict[str, ModelProfile],
) -> None:
    text = encode_spec(SETTINGS, profiles)
    settings, same = decode_spec(text)
    assert list(same.items()) == list(profiles.items())
    assert settings == Settings(
        device="cuda:1",
        dtype="bfloat16",
        compile=True,
        deterministic=True,
        log_level="DEBUG",
        model_memory_gb=12.5,
    )
    assert TOKEN not in text
    assert text.isascii()


def test_a_folder_may_have_a_name_that_is_no_text(profile: ModelProfile) -> None:
    odd = dataclasses.replace(profile, folder=Path(os.fsdecode(b"/models/\xff")))
    assert decode_spec(encode_spec(SETTINGS, {"odd": odd}))[1] == {"odd": odd}


def test_a_description_holds_how_a_model_saves_memory(profile: ModelProfile) -> None:
    small = dataclasses.replace(
        profile,
        denoiser=DenoiserFile(Path("/models/small.gguf"), "Q4_K"),
        savings=Savings(quantize="int8", offload="model", decoder_tile=512, decoder_slicing=True),
    )
    assert decode_spec(encode_spec(SETTINGS, {"small": small}))[1] == {"small": small}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"settings": {"dtype": "float8"}}, "dtype"),
        ({"settings": {"devise": "cpu"}}, "devise"),
        ({"profiles": {"A": {"name": "starter"}}}, "missing required field"),
        ({"code": "import os"}, "unknown field `code`"),
    ],
)
def test_a_description_with_a_wrong_value_is_refused(
    profile: ModelProfile, changes: dict[str, Any], wrong: str
) -> None:
    text = json.dumps({**json.loads(encode_spec(SETTINGS, {"A": profile})), **changes})
    with pytest.raises(ValueError, match=wrong):
        decode_spec(text)


@pytest.mark.rare
class TestProcess:
    """The real engine in its process, with two models of which one is in memory."""

    @pytest.fixture
    def process(self, profiles: dict[str, ModelProfile]) -> Iterator[EngineProcess]:
        models = {"A": profiles["Z"], "B": dataclasses.replace(profiles["Z"], name="other")}
        process = start_engine(Settings(device="cpu"), models)
        yield process
        process.close()
        process.join()

    def test_models_take_turns_in_memory_and_pictures_keep_their_bits(
        self, process: EngineProcess
    ) -> None:
        assert process.measured().pixels
        first = process.load("A")
        assert (set(first.loaded), set(first.beside)) == ({"A"}, set())
        assert first.weights_sha256 is not None
        images = {}
        for model in ("A", "B"):
            assert process.load(model).failure is None
            [images[model]] = process.begin([a_request(model=model, steps=2)])
            assert isinstance(images[model], list)
            process.step(images[model])
        assert set(process.load("B").loaded) == {"B"}
        made = {}
        for model in ("A", "B"):
            process.load(model)
            process.step(images[model])
            [made[model]] = process.finish(images[model])
        assert made["A"].pixels == made["B"].pixels
        assert {name: each.recipe.model for name, each in made.items()} == {
            "A": "starter",
            "B": "other",
        }

    def test_a_process_that_dies_while_it_loads_is_a_lost_engine(
        self, process: EngineProcess
    ) -> None:
        process.measured()
        threading.Timer(0.1, process.close).start()
        with pytest.raises(EngineLost):
            process.load("B")
