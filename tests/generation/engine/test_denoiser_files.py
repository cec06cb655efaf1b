"""Models whose denoiser is a file of its own, beside diffusers' pipelines with the same file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    Flux2Transformer2DModel,
    GGUFQuantizationConfig,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)

from generation.engine.engine import Engine
from generation.models.loading import load
from generation.models.locate import locate
from generation.values.request import GenerationRequest

from ..denoisers import (
    as_comfyui_klein,
    as_comfyui_z_image,
    folder_tensors,
    write_gguf,
    write_plain,
)
from ..examples import a_request
from ..flux2_klein import Flux2KleinPipelines
from ..pipelines import Pipelines, pixels
from ..single_file import unet_name
from ..z_image import reference_z_image
from .pictures import begin, found

PREFIX = "model.diffusion_model."


def engine_of(file: Path, base: Path, *, shared: bool = False) -> Engine:
    model = load(locate(str(file), base=str(base)), device="cpu", dtype="float32")
    return Engine(model, shared=shared)


def quantized(kind: Any, file: Path, base: Path, part: str) -> Any:
    """Return the network that diffusers reads from a .gguf file."""
    return kind.from_single_file(
        str(file),
        config=str(base),
        subfolder=part,
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    )


def request(**changes: Any) -> GenerationRequest:
    return a_request(**{"scheduler": "euler", "prompt": "a cat", **changes})


def assert_alike(picture: np.ndarray, expected: np.ndarray) -> None:
    """Every value within one of 255, and at least 99.9 percent equal."""
    assert picture.std() > 10
    away = np.abs(picture.astype(int) - expected.astype(int))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size


@pytest.fixture(scope="module")
def z_image_file(z_image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = as_comfyui_z_image(folder_tensors(z_image_folder, "transformer"))
    return write_gguf(tmp_path_factory.mktemp("gguf") / "z.Q4_0.gguf", tensors, kind="Q4_0")


@pytest.fixture(scope="module")
def z_image_engine(z_image_file: Path, z_image_folder: Path) -> Engine:
    return engine_of(z_image_file, z_image_folder, shared=True)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_a_z_image_in_gguf_makes_the_pipelines_pictures(
    z_image_folder: Path, tmp_path: Path, kind: str
) -> None:
    tensors = as_comfyui_z_image(folder_tensors(z_image_folder, "transformer"))
    file = write_gguf(tmp_path / "z.gguf", tensors, kind=kind)
    pipelines = reference_z_image(z_image_folder, stock=True)
    asked = request(guidance_scale=4.0, negative_prompt="dark")
    plain = pipelines.picture(asked)
    pipelines.text.transformer = quantized(
        ZImageTransformer2DModel, file, z_image_folder, "transformer"
    )
    expected = pipelines.picture(asked)
    made = engine_of(file, z_image_folder).generate(asked)[0]
    assert_alike(pixels(made), expected)
    assert made.recipe.quantization == kind
    assert (plain != expected).any()


def test_a_klein_in_gguf_makes_the_pipelines_pictures(klein_folder: Path, tmp_path: Path) -> None:
    tensors = as_comfyui_klein(folder_tensors(klein_folder, "transformer"))
    file = write_gguf(tmp_path / "klein.gguf", tensors, architecture="flux")
    pipelines = Flux2KleinPipelines.load(klein_folder, stock=True)
    pipelines.text.transformer = quantized(
        Flux2Transformer2DModel, file, klein_folder, "transformer"
    )
    asked = request()
    assert_alike(pixels(engine_of(file, klein_folder).generate(asked)[0]), pipelines.picture(asked))


def test_a_unet_in_gguf_makes_the_pipelines_pictures(sd15_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "sd.gguf", folder_tensors(sd15_folder, "unet"), kind="Q4_0")
    pipelines = Pipelines.load(sd15_folder, stock=True)
    pipelines.text.unet = quantized(UNet2DConditionModel, file, sd15_folder, "unet")
    asked = request(scheduler="ddim", guidance_scale=7.5)
    assert_alike(pixels(engine_of(file, sd15_folder).generate(asked)[0]), pipelines.picture(asked))


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("family", ["z_image", "klein"])
def test_a_transformer_of_comfyui_makes_the_pictures_of_the_folder(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, prefix: str
) -> None:
    folder: Path = request.getfixturevalue(f"{family}_folder")
    convert = {"z_image": as_comfyui_z_image, "klein": as_comfyui_klein}[family]
    tensors = convert(folder_tensors(folder, "transformer"))
    file = write_plain(tmp_path / "t.safetensors", {prefix + n: t for n, t in tensors.items()})
    asked = a_request(scheduler="euler")
    whole = Engine(request.getfixturevalue(family), shared=False).generate(asked)[0]
    made = engine_of(file, folder).generate(asked)[0]
    assert made.pixels == whole.pixels
    assert made.recipe.quantization is None
    assert made.recipe.model_sha256 != whole.recipe.model_sha256


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_unet_by_the_names_of_the_first_release_has_the_weights_of_the_folder(
    sdxl: Any, tmp_path: Path, prefix: str
) -> None:
    folder = sdxl.profile.folder
    tensors = folder_tensors(folder, "unet")
    layers = sdxl.unet.config.layers_per_block
    renamed = {f"{prefix}{unet_name(name, layers)}": tensor for name, tensor in tensors.items()}
    file = write_plain(tmp_path / "unet.safetensors", renamed)
    model: Any = load(locate(str(file), base=str(folder)), device="cpu", dtype="float32")
    for name, weight in model.unet.state_dict().items():
        assert torch.equal(weight, tensors[name])


class TestTogether:
    def test_a_picture_does_not_depend_on_those_beside_it(self, z_image_engine: Engine) -> None:
        asked = request(guidance_scale=4.0)
        alone = z_image_engine.generate(asked)[0]
        others = [request(seed=seed, steps=3 + seed % 3, guidance_scale=4.0) for seed in range(7)]
        images = [begin(z_image_engine, one)[0] for one in [asked, *others]]
        while not all(image.done for image in images):
            z_image_engine.step(images)
        beside = found(z_image_engine.finish(images)[0])
        assert beside.pixels == alone.pixels

    def test_a_restart_changes_nothing(
        self, z_image_engine: Engine, z_image_file: Path, z_image_folder: Path
    ) -> None:
        again = engine_of(z_image_file, z_image_folder).generate(request())[0]
        made = z_image_engine.generate(request())[0]
        assert dataclasses.replace(again.recipe, versions={}) == dataclasses.replace(
            made.recipe, versions={}
        )
        assert again.pixels == made.pixels

    def test_it_never_shares_a_call_with_the_plain_weights(
        self, z_image_engine: Engine, z_image: Any
    ) -> None:
        quantized, plain = (
            begin(one, request())[0] for one in (z_image_engine, Engine(z_image, shared=False))
        )
        assert quantized.batch_key != plain.batch_key
