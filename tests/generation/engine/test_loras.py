"""Pictures with LoRAs, beside the pipeline of diffusers with the same files."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoHaConfig, get_peft_model

from generation.catalog.addons.loras import LoraLibrary
from generation.catalog.memory.savings import Savings
from generation.engine import adaptation
from generation.engine.engine import Engine
from generation.errors import LoraError
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.stable_diffusion import StableDiffusion
from generation.values.lora import Lora
from generation.values.recipe import GeneratedImage, Recipe
from generation.values.request import GenerationRequest

from .. import loras
from ..examples import a_request
from ..pipelines import Pipelines, pixels

ATTENTION = "attn"


@pytest.fixture(scope="module")
def folder(sd15: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRAs for the small model, one in each layout, and one more of kohya's."""
    where = tmp_path_factory.mktemp("loras")
    both = dict(sd15.adaptable)
    unet = {"unet": sd15.unet}
    for name, layout in loras.LAYOUTS.items():
        networks = unet if name == "old diffusers" else both
        loras.save(
            layout(loras.layers(networks, only=ATTENTION, seed=len(name))),
            where / f"{name}.safetensors",
        )
    again = loras.layers(both, only=ATTENTION, seed=50)
    loras.save(loras.peft(again), where / "again.safetensors")
    convolutions = loras.layers(unet, only="conv1") + loras.layers(unet, only="time_emb")
    loras.save(loras.kohya(convolutions), where / "convolutions.safetensors")
    loras.save(loras.doras(loras.layers(unet, only=ATTENTION, seed=9)), where / "dora.safetensors")
    return where


@pytest.fixture(scope="module")
def engine(sd15: StableDiffusion, folder: Path) -> Engine:
    return Engine(sd15, library=LoraLibrary(folder))


@pytest.fixture(scope="module")
def stock(sd15_folder: Path) -> Pipelines:
    """The pipeline with the library's own layers: LoRAs cannot be loaded into others."""
    return Pipelines.load(sd15_folder, stock=True)


@pytest.fixture
def pipeline(stock: Pipelines) -> Iterator[Pipelines]:
    """The pipeline, without LoRAs again afterwards."""
    yield stock
    stock.text.unload_lora_weights()


def a_small_request(*chosen: Lora, **changes: object) -> GenerationRequest:
    values = {"guidance_scale": 7.5, "steps": 4, "prompt": "a cat", **changes}
    return a_request(loras=chosen, **values)


def use(pipeline: Pipelines, folder: Path, *chosen: Lora) -> None:
    for lora in chosen:
        pipeline.text.load_lora_weights(folder / f"{lora.name}.safetensors", adapter_name=lora.name)
    pipeline.text.set_adapters(
        [lora.name for lora in chosen], adapter_weights=[lora.weight for lora in chosen]
    )


def assert_alike(made: GeneratedImage, expected: np.ndarray) -> None:
    """No value more than 1 of 255 off, and at least 99.9 % equal."""
    picture = pixels(made)
    assert picture.std() > 5
    away = np.abs(picture.astype(int) - expected.astype(int))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size


class TestBesideThePipeline:
    @pytest.mark.parametrize("name", [*loras.LAYOUTS, "convolutions", "dora"])
    def test_a_file_in_any_layout_gives_the_pipelines_picture(
        self, engine: Engine, pipeline: Pipelines, folder: Path, name: str
    ) -> None:
        request = a_small_request(Lora(name, 0.8))
        file = folder / f"{name}.safetensors"
        pipeline.text.load_lora_weights(file, adapter_name="one")
        pipeline.text.set_adapters(["one"], [0.8])
        made = engine.generate(request)[0]
        assert_alike(made, pipeline.picture(request))
        plain = pixels(engine.generate(replace(request, loras=()))[0])
        assert np.abs(plain.astype(int) - pixels(made).astype(int)).max() > 10

    @pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
    def test_several_with_a_weight_each_give_the_pipelines_picture(
        self, engine: Engine, pipeline: Pipelines, folder: Path
    ) -> None:
        chosen = (Lora("kohya", 0.5), Lora("again", -0.4), Lora("convolutions", 1.2))
        use(pipeline, folder, *chosen)
        request = a_small_request(*chosen)
        assert_alike(engine.generate(request)[0], pipeline.picture(request))

    def test_alpha_in_the_header_counts_as_in_the_pipeline(
        self, sd15: StableDiffusion, pipeline: Pipelines, tmp_path: Path
    ) -> None:
        found = loras.layers({"unet": sd15.unet}, only=ATTENTION)
        names = [layer.name for layer in found]
        config = {"unet.r": loras.RANK, "unet.lora_alpha": 1, "unet.target_modules": names}
        file = loras.save(loras.peft(found), tmp_path / "header.safetensors", config)
        pipeline.text.load_lora_weights(file, adapter_name="header")
        request = a_small_request(Lora("header"))
        made = Engine(sd15, library=LoraLibrary(tmp_path)).generate(request)[0]
        assert_alike(made, pipeline.picture(request))

    def test_a_dora_as_kohya_writes_it_gives_the_same_picture(
        self, sd15: StableDiffusion, engine: Engine, tmp_path: Path
    ) -> None:
        # The pipeline leaves out the lengths in this layout, and makes another picture.
        tensors: loras.Tensors = {}
        for name, tensor in loras.doras(
            loras.layers({"unet": sd15.unet}, only=ATTENTION, seed=9)
        ).items():
            layer, _, end = name.removeprefix("unet.").partition(".lora_")
            ends = {
                "A.weight": "lora_down.weight",
                "B.weight": "lora_up.weight",
                "magnitude_vector": "dora_scale",
            }
            written = f"lora_unet_{layer.replace('.', '_')}.{ends[end]}"
            tensors[written] = tensor.unsqueeze(1) if end == "magnitude_vector" else tensor
        loras.save(tensors, tmp_path / "kohya dora.safetensors")
        made = Engine(sd15, library=LoraLibrary(tmp_path)).generate(
            a_small_request(Lora("kohya dora", 0.8))
        )[0]
        assert made.pixels == engine.generate(a_small_request(Lora("dora", 0.8)))[0].pixels

    def test_a_loha_gives_what_peft_computes(
        self, sd15: StableDiffusion, pipeline: Pipelines, tmp_path: Path
    ) -> None:
        found = loras.layers({"unet": sd15.unet}, only="attn1.to_q")
        tensors: loras.Tensors = {}
        state: loras.Tensors = {}
        for layer, own in loras.lohas(found):
            written = "lora_unet_" + layer.name.replace(".", "_")
            tensors[f"{written}.alpha"] = torch.tensor(loras.ALPHA)
            for name, tensor in own.items():
                tensors[f"{written}.{name}"] = tensor
                state[f"base_model.model.{layer.name}.{name}.default"] = tensor
        loras.save(tensors, tmp_path / "loha.safetensors")
        config = LoHaConfig(
            r=loras.RANK, alpha=int(loras.ALPHA), target_modules=[layer.name for layer in found]
        )
        unet = get_peft_model(copy.deepcopy(pipeline.text.unet), config)
        assert not unet.load_state_dict(state, strict=False).unexpected_keys
        kept, pipeline.text.unet = pipeline.text.unet, unet.merge_and_unload()
        request = a_small_request(Lora("loha"))
        expected = pipeline.picture(request)
        pipeline.text.unet = kept
        made = Engine(sd15, library=LoraLibrary(tmp_path)).generate(request)[0]
        assert_alike(made, expected)


class TestTheSameBits:
    def test_beside_others_with_other_loras_and_after_a_restart(
        self, sd15_folder: Path, engine: Engine, folder: Path
    ) -> None:
        weights = (0.3, 0.6, 0.9)
        requests = [
            a_small_request(steps=2),
            a_small_request(Lora("convolutions", 0.7), steps=2),
            *(a_small_request(Lora("kohya", weight), steps=2) for weight in weights),
            *(a_small_request(Lora("peft"), Lora("kohya", weight), steps=2) for weight in weights),
        ]
        alone = [engine.generate(request)[0] for request in requests]
        begun = engine.begin(requests)
        images = [image for images in begun for image in images]  # type: ignore[union-attr]
        while not all(image.done for image in images):
            engine.step(images)
        beside = engine.finish(images)
        again = Engine(
            load(locate(str(sd15_folder)), device="cpu", dtype="float32"),
            library=LoraLibrary(folder),
        )
        for request, one, other in zip(requests, alone, beside, strict=True):
            assert other is not None
            assert other.pixels == one.pixels
            assert again.generate(request)[0].pixels == one.pixels
        assert len({one.pixels.sha256 for one in alone}) == len(requests)

    def test_only_images_with_the_same_loras_and_weights_share_a_call(self, engine: Engine) -> None:
        same = a_small_request(Lora("kohya", 0.5))
        other = a_small_request(Lora("kohya", 0.6))
        begun = engine.begin([same, replace(same, seed=5), other, a_small_request()])
        keys = [images[0].batch_key for images in begun]  # type: ignore[index]
        assert keys[0] == keys[1]
        assert len(set(keys)) == 3

    def test_the_order_of_the_loras_does_not_matter(self, engine: Engine) -> None:
        chosen = (Lora("kohya", 0.5), Lora("peft", 0.5))
        first = engine.generate(a_small_request(*chosen))[0]
        assert engine.generate(a_small_request(*reversed(chosen)))[0].pixels == first.pixels

    def test_a_combination_that_left_the_memory_is_merged_again(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requests = [a_small_request(Lora("kohya", weight)) for weight in (0.1, 0.2, 0.3)]
        before = [engine.generate(request)[0].pixels for request in requests]
        monkeypatch.setattr(adaptation, "_MERGED_MOST", 1)
        begun = engine.begin(requests)
        images = [image for images in begun for image in images]  # type: ignore[union-attr]
        while not all(image.done for image in images):
            engine.step(images)
        after = [image.pixels for image in engine.finish(images) if image is not None]
        assert after == before

    def test_the_model_itself_keeps_its_weights(self, sd15: StableDiffusion, folder: Path) -> None:
        before = {name: each.clone() for name, each in sd15.unet.state_dict().items()}
        Engine(sd15, library=LoraLibrary(folder)).generate(a_small_request(Lora("convolutions")))
        after = sd15.unet.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


class TestRecipe:
    def test_it_holds_each_lora_with_its_hash_and_makes_the_picture_again(
        self, engine: Engine
    ) -> None:
        made = engine.generate(a_small_request(Lora("Kohya", 0.5), Lora("peft")))[0]
        recipe = Recipe.from_json(made.recipe.to_json())
        used = {lora["name"]: lora for lora in recipe.loras or ()}
        assert used["Kohya"]["weight"] == 0.5
        assert len(used["peft"]["sha256"]) == 64
        assert recipe.versions["peft"] == importlib.metadata.version("peft")
        assert "peft" not in engine.generate(a_small_request())[0].recipe.versions
        assert engine.generate(recipe.request(None))[0].pixels == made.pixels

    def test_a_file_under_another_name_is_found_by_its_hash(
        self, sd15: StableDiffusion, folder: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "first.safetensors"
        file.write_bytes((folder / "kohya.safetensors").read_bytes())
        engine = Engine(sd15, library=LoraLibrary(tmp_path))
        made = engine.generate(a_small_request(Lora("first")))[0]
        request = made.recipe.request(None)
        file.rename(tmp_path / "second.safetensors")
        assert engine.generate(request)[0].pixels == made.pixels
        (tmp_path / "second.safetensors").unlink()
        with pytest.raises(LoraError, match="is gone"):
            engine.generate(request)
        file.write_bytes((folder / "peft.safetensors").read_bytes())
        with pytest.raises(LoraError, match="has changed"):
            engine.generate(request)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"savings": Savings(offload="model")}, "offloaded"),
        ({"savings": Savings(quantize="int8")}, "quantised"),
    ],
)
def test_a_model_whose_layers_cannot_be_copied_says_so(
    sd15: StableDiffusion, folder: Path, changes: dict[str, Any], said: str
) -> None:
    model = replace(sd15, profile=replace(sd15.profile, **changes))
    engine = Engine(model, library=LoraLibrary(folder), shared=False)
    with pytest.raises(LoraError, match=f"while it is {said}"):
        engine.generate(a_small_request(Lora("kohya")))
