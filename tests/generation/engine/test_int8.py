"""Models in 8 bits, beside diffusers' pipelines in 8 bits."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QuantoConfig, UNet2DConditionModel, ZImageTransformer2DModel
from optimum.quanto import QTensor, freeze, qint8, quantize

from generation.catalog.memory.savings import Offload, Savings
from generation.catalog.profile import ModelProfile
from generation.engine.engine import Engine
from generation.errors import ModelError
from generation.models.loading import load, sizes_of
from generation.models.locate import locate
from generation.values.request import GenerationRequest

from ..denoisers import folder_tensors, write_gguf
from ..examples import a_request
from ..pipelines import Pipelines, pixels
from ..z_image import reference_z_image
from .pictures import begin, found

FAMILIES = ("sd15", "sdxl", "klein", "z_image", "sd3")


def in_int8(folder: Path, offload: Offload = "none") -> ModelProfile:
    return locate(str(folder), savings=Savings(quantize="int8", offload=offload))


def loaded(profile: ModelProfile) -> Any:
    return load(profile, device="cpu", dtype="float32")


def request(**changes: Any) -> GenerationRequest:
    return a_request(**{"scheduler": "euler", "prompt": "a cat", **changes})


def assert_alike(picture: np.ndarray, expected: np.ndarray) -> None:
    """Every value within one of 255, and at least 99.9 percent equal."""
    assert picture.std() > 10
    away = np.abs(picture.astype(int) - expected.astype(int))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size


def quantized(kind: Any, folder: Path, part: str) -> Any:
    network = kind.from_pretrained(
        folder,
        subfolder=part,
        quantization_config=QuantoConfig(weights_dtype="int8"),
        dtype=torch.float32,
    )
    freeze(network)
    return network


# The library itself stays; diffusers will only stop to call it.
@pytest.mark.filterwarnings("ignore:.*Quanto.* is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["sd15", "z_image"])
def test_it_makes_the_pipelines_pictures(request_fixture: Any, family: str) -> None:
    folder: Path = request_fixture(f"{family}_folder")
    pipelines: Any
    if family == "sd15":
        pipelines = Pipelines.load(folder, stock=True)
        pipelines.text.unet = quantized(UNet2DConditionModel, folder, "unet")
    else:
        pipelines = reference_z_image(folder, stock=True)
        pipelines.text.transformer = quantized(ZImageTransformer2DModel, folder, "transformer")
    asked = request(guidance_scale=4.0, scheduler="ddim" if family == "sd15" else "euler")
    quantize(pipelines.text.text_encoder, weights=qint8)
    freeze(pipelines.text.text_encoder)
    expected = pipelines.picture(asked)
    made = Engine(loaded(in_int8(folder)), shared=False).generate(asked)[0]
    assert_alike(pixels(made), expected)
    assert made.recipe.quantization == "int8"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_its_matrices_in_8_bits(request_fixture: Any, family: str) -> None:
    plain: Any = request_fixture(family)
    model = loaded(in_int8(plain.profile.folder))
    for part in ("text_encoder", "unet" if hasattr(model, "unet") else "transformer"):
        weights = list(getattr(model, part).parameters())
        stored = [weight for weight in weights if isinstance(weight, QTensor)]
        assert sum(map(torch.numel, stored)) > 0.1 * sum(map(torch.numel, weights))
    said = sizes_of(plain.profile, torch.float32)["text_encoder"].int8
    taken = sum(map(_bytes, model.text_encoder.parameters()))
    # klein reads no further than the layers it needs, and leaves the others in the file.
    assert taken == pytest.approx(said, rel=0.1)
    assert not any(isinstance(weight, QTensor) for weight in model.vae.parameters())
    scheduler = plain.profile.default_scheduler
    made, whole = (
        Engine(one, shared=False).generate(request(scheduler=scheduler))[0]
        for one in (model, plain)
    )
    assert made.recipe.model_sha256 != whole.recipe.model_sha256
    away = np.abs(pixels(made).astype(int) - pixels(whole).astype(int))
    assert 0 < away.mean() < 20


def test_a_picture_depends_neither_on_others_nor_on_a_restart(z_image_folder: Path) -> None:
    engine = Engine(loaded(in_int8(z_image_folder)))
    asked = request(guidance_scale=4.0)
    others = [request(seed=seed, steps=3 + seed % 3, guidance_scale=4.0) for seed in range(7)]
    images = [begin(engine, one)[0] for one in [asked, *others]]
    while not all(image.done for image in images):
        engine.step(images)
    beside = found(engine.finish(images)[0])
    again = Engine(loaded(in_int8(z_image_folder, "model")), shared=False).generate(asked)[0]
    assert beside.pixels == engine.generate(asked)[0].pixels == again.pixels


def test_the_text_encoder_of_a_gguf_may_be_in_8_bits(z_image_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "z.gguf", folder_tensors(z_image_folder, "transformer"))
    profile = locate(str(file), base=str(z_image_folder), savings=Savings(quantize="int8"))
    made = Engine(loaded(profile), shared=False).generate(request())[0]
    assert made.recipe.quantization == "Q8_0 + int8"
    for library in ("gguf", "optimum-quanto"):
        assert made.recipe.versions[library] == importlib.metadata.version(library)
    plain = dataclasses.replace(profile, savings=Savings())
    other = Engine(loaded(plain), shared=False).generate(request())[0]
    assert other.recipe.model_sha256 != made.recipe.model_sha256
    assert "optimum-quanto" not in other.recipe.versions


def test_without_the_library_it_is_refused(
    sd15_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'imagine-bot\[small\]'"):
        loaded(in_int8(sd15_folder))


def _bytes(weight: torch.Tensor) -> int:
    inner = (weight._data, weight._scale) if isinstance(weight, QTensor) else (weight,)
    return sum(tensor.numel() * tensor.element_size() for tensor in inner)


def test_what_is_computed_in_float32_later_stays_as_it_is(sd3_folder: Path) -> None:
    encoder = loaded(in_int8(sd3_folder)).text_encoder_3
    kinds = {
        name.endswith(".wo"): isinstance(layer.weight, QTensor)
        for name, layer in encoder.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    assert kinds == {True: False, False: True}


@pytest.fixture
def request_fixture(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue
