"""LoRAs that cannot be merged, and the memory that merged ones take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from generation.catalog.addons.loras import LoraLibrary
from generation.engine import adaptation
from generation.engine.engine import Engine
from generation.errors import GenerationError, LoraError, OutOfMemory
from generation.models.stable_diffusion import StableDiffusion
from generation.values.lora import Lora
from generation.values.request import GenerationRequest

from .. import loras
from ..examples import a_request
from .faults import FULL, begin, run

PLAIN = a_request(steps=3)
INK, CHALK = Lora("ink"), Lora("chalk")


@pytest.fixture(scope="module")
def library(starter: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> LoraLibrary:
    """LoRAs for the UNet alone; with the one called `broken` the numbers overflow."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("ink", "chalk", "coal", "broken")):
        found = loras.layers({"unet": starter.unet}, only="attn", seed=seed)
        for layer in found:
            if name == "broken":
                layer.up *= 1e25
                layer.down *= 1e25
        loras.save(loras.kohya(found), folder / f"{name}.safetensors")
    return LoraLibrary(folder)


@pytest.fixture
def engine(starter: StableDiffusion, library: LoraLibrary) -> Engine:
    return Engine(starter, library=library, shared=False)


def with_loras(*chosen: Lora, **changes: Any) -> GenerationRequest:
    return replace(PLAIN, loras=chosen, **changes)


class TestFailures:
    def test_loras_that_overflow_are_refused_before_the_first_step(self, engine: Engine) -> None:
        expected = engine.generate(PLAIN)
        failure, images = engine.begin([with_loras(Lora("broken", 2.0)), PLAIN])
        assert isinstance(failure, LoraError)
        assert "numbers overflow" in str(failure)
        assert not isinstance(images, GenerationError)
        assert run(engine, images) == expected

    def test_loras_that_do_not_fit_are_refused_before_the_first_step(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adaptation, "merge", out_of_memory)
        failure, images = engine.begin([with_loras(INK), PLAIN])
        assert isinstance(failure, OutOfMemory)
        assert not isinstance(images, GenerationError)

    def test_loras_that_do_not_fit_any_more_fail_their_own_images_alone(
        self,
        engine: Engine,
        starter: StableDiffusion,
        library: LoraLibrary,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        expected = engine.generate(PLAIN)
        images = begin(engine, with_loras(INK, count=2), PLAIN)
        engine.step(images)
        # The model leaves the memory for another model, and comes back.
        suspended = engine.suspend()
        again = Engine(starter, library=library, shared=False)
        again.resume(suspended)
        monkeypatch.setattr(adaptation, "merge", out_of_memory)
        assert run(again, images) == [None, None, *expected]
        assert [type(image.failure) for image in images] == [OutOfMemory, OutOfMemory, type(None)]


def out_of_memory(*_: object) -> torch.Tensor:
    raise RuntimeError(FULL)
