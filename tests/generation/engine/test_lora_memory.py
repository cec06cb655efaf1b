"""LoRAs that cannot be merged, and the memory that merged ones take."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from generation.catalog.addons.loras import LoraLibrary
from generation.engine import adaptation
from generation.engine.engine import Engine
from generation.errors import GenerationError, LoraError, OutOfMemory
from generation.models.networks.deterministic import is_weighted, with_weight
from generation.models.stable_diffusion import StableDiffusion
from generation.values.lora import Lora
from generation.values.request import GenerationRequest

from .. import loras
from ..examples import a_request
from .faults import FULL, begin, decoder_without_room, run, unet_without_room

PLAIN = a_request(steps=4)
INK, CHALK, COAL = Lora("ink"), Lora("chalk"), Lora("coal")


@pytest.fixture(scope="module")
def library(sd15: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> LoraLibrary:
    """LoRAs for all of the UNet; with the one called `broken` the numbers overflow."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("ink", "chalk", "coal", "broken")):
        found = loras.layers({"unet": sd15.unet}, seed=seed)
        for layer in found:
            if name == "broken":
                layer.up *= 1e25
                layer.down *= 1e25
        loras.save(loras.kohya(found), folder / f"{name}.safetensors")
    return LoraLibrary(folder)


@pytest.fixture
def engine(sd15: StableDiffusion, library: LoraLibrary) -> Engine:
    return Engine(sd15, library=library, shared=False)


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
        sd15: StableDiffusion,
        library: LoraLibrary,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        expected = engine.generate(PLAIN)
        images = begin(engine, with_loras(INK, count=2), PLAIN)
        engine.step(images)
        # The model leaves the memory for another model, and comes back.
        suspended = engine.suspend()
        again = Engine(sd15, library=library, shared=False)
        again.resume(suspended)
        monkeypatch.setattr(adaptation, "merge", out_of_memory)
        assert run(again, images) == [None, None, *expected]
        assert [type(image.failure) for image in images] == [OutOfMemory, OutOfMemory, type(None)]


class TestMergedLoras:
    @pytest.fixture(autouse=True)
    def merged(self, sd15: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> Merged:
        merged = Merged(sum(map(is_weighted, sd15.unet.modules())))
        monkeypatch.setattr(adaptation, "with_weight", merged.with_weight)
        return merged

    def test_those_of_two_people_are_merged_once_however_little_memory_there_is(
        self, engine: Engine, merged: Merged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adaptation, "available", lambda _: 0)
        made = run(engine, begin(engine, with_loras(INK), with_loras(CHALK)))
        assert merged.combinations == 2
        assert made == [*engine.generate(with_loras(INK)), *engine.generate(with_loras(CHALK))]

    def test_those_of_more_people_stay_while_memory_is_left(
        self, engine: Engine, merged: Merged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requests = [with_loras(lora) for lora in (INK, CHALK, COAL)]
        made = run(engine, begin(engine, *requests))
        assert merged.combinations == 3
        drop_all(engine)
        monkeypatch.setattr(adaptation, "available", lambda _: 0)
        assert run(engine, begin(engine, *requests)) == made
        # Not three more at each step: the one of the last call gives way, which is needed last.
        assert 6 < merged.combinations <= 6 + 2 * PLAIN.steps
        assert len(merged.layers) == 2 * merged.each

    def test_those_that_nobody_needs_leave_before_calls_get_smaller(
        self, engine: Engine, sd15: StableDiffusion, merged: Merged
    ) -> None:
        expected = engine.generate(with_loras(INK, count=2))
        engine.generate(with_loras(CHALK))
        images = begin(engine, with_loras(INK, count=2))
        assert len(merged.layers) == 2 * merged.each
        with unet_without_room(sd15, lambda _: len(merged.layers) > merged.each) as refused:
            assert run(engine, images) == expected
        assert len(refused) == 1
        assert merged.combinations == 2

    def test_those_that_others_need_leave_before_a_picture_fails(
        self, engine: Engine, sd15: StableDiffusion, merged: Merged
    ) -> None:
        requests = [with_loras(INK), with_loras(CHALK)]
        expected = [picture for request in requests for picture in engine.generate(request)]
        images = begin(engine, *requests)
        with unet_without_room(sd15, lambda _: len(merged.layers) > merged.each):
            assert run(engine, images) == expected

    def test_those_that_nobody_needs_leave_before_a_picture_is_decoded_in_tiles(
        self, engine: Engine, sd15: StableDiffusion, merged: Merged
    ) -> None:
        expected = engine.generate(PLAIN)
        engine.generate(with_loras(INK))
        with decoder_without_room(sd15, lambda _: bool(merged.layers)) as calls:
            assert run(engine, begin(engine, PLAIN)) == expected
        assert len(calls) == 2

    def test_those_that_nobody_needs_leave_before_a_merge_fails(
        self, engine: Engine, merged: Merged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = engine.generate(with_loras(CHALK))
        drop_all(engine)
        engine.generate(with_loras(INK))
        merge = adaptation.merge

        def merge_alone(*arguments: Any) -> torch.Tensor:
            return out_of_memory() if len(merged.layers) > merged.each else merge(*arguments)

        monkeypatch.setattr(adaptation, "merge", merge_alone)
        assert engine.generate(with_loras(CHALK)) == expected


def drop_all(engine: Engine) -> None:
    while engine._networks.adapted.make_room():
        pass


class Merged:
    """Counts the layers with LoRAs merged in that were made, and holds those still in memory."""

    def __init__(self, each: int) -> None:
        self.layers: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.count = 0
        self.each = each

    def with_weight(self, layer: nn.Module, weight: torch.Tensor) -> nn.Module:
        made = with_weight(layer, weight)
        self.layers.add(made)
        self.count += 1
        return made

    @property
    def combinations(self) -> int:
        """Return how many combinations were merged."""
        return self.count // self.each


def out_of_memory(*_: object) -> torch.Tensor:
    raise RuntimeError(FULL)
