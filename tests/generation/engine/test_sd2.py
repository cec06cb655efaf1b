"""Stable Diffusion 2 beside the pipelines of diffusers, from its folder and from one file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
)

from generation.catalog import single_file
from generation.catalog.files import list_folder, read_config, select_configs
from generation.catalog.single_file import whole_configs
from generation.engine.engine import Engine
from generation.models.families import STABLE_DIFFUSION
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.networks.building import expected_shapes
from generation.models.stable_diffusion import NETWORKS
from generation.models.text.tokenizing import load_tokenizer

from ..examples import a_request, gradient
from ..pipelines import Pipelines, pixels
from ..sd2 import SCHEDULER, make_sd2, reference_sd2
from ..single_file import write_sd2_file

REQUESTS: dict[str, dict[str, Any]] = {
    "guided": {"guidance_scale": 7.5, "negative_prompt": "dark"},
    "unguided": {"guidance_scale": 1.0, "steps": 5, "scheduler": "lms"},
    "rescaled": {"guidance_scale": 9.0, "guidance_rescale": 0.7},
    "wide": {"width": 104, "scheduler": "euler", "negative_prompt": "dark"},
    "similar": {"source": gradient(), "strength": 0.6, "steps": 5},
}
LCM = {
    key: value
    for key, value in SCHEDULER.items()
    if not key.startswith("_") and key != "skip_prk_steps"
}
KIND = STABLE_DIFFUSION.single_files[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "small-sd2"
    make_sd2(made)
    return made


@pytest.fixture(scope="module")
def pipelines(folder: Path) -> Pipelines:
    return reference_sd2(folder)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Pipelines:
    return reference_sd2(folder, stock=True)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(load(locate(str(folder)), device="cpu"))


@pytest.mark.parametrize("changes", REQUESTS.values(), ids=REQUESTS)
def test_it_is_the_pipelines_picture(
    engine: Engine, pipelines: Pipelines, stock: Pipelines, changes: dict[str, Any]
) -> None:
    request = a_request(**changes)
    made = pixels(engine.generate(request)[0])
    assert made.std() > 10
    np.testing.assert_array_equal(made, pipelines.picture(request))
    away = np.abs(made.astype(int) - stock.picture(request))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size


@pytest.fixture
def file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A single file; it is converted with the small model's configs."""
    (tmp_path / "shelf").mkdir()
    monkeypatch.setattr(single_file, "bundled_configs", lambda name: folder)
    monkeypatch.setattr(single_file, "cached_assets_path", lambda *_, **__: tmp_path / "shelf")
    made = tmp_path / "v2-1.safetensors"
    write_sd2_file(StableDiffusionPipeline.from_pretrained(folder), made)
    return made


def test_from_one_file_it_is_the_same_picture(engine: Engine, file: Path) -> None:
    found = locate(str(file))
    assert (found.family, found.prediction_type) == ("Stable Diffusion 1 or 2", "v_prediction")
    request = a_request(guidance_scale=7.5, negative_prompt="dark")
    again = Engine(load(found, device="cpu"), shared=False).generate(request)[0]
    assert again.pixels == engine.generate(request)[0].pixels


@pytest.mark.parametrize(
    ("text", "configs"),
    [(None, "stable-diffusion-2-1-base"), ("parameterization: v", "stable-diffusion-2-1")],
)
def test_the_yaml_beside_a_file_says_for_which_size_it_is(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, configs: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(single_file, "bundled_configs", lambda name: asked.append(name) or folder)
    if text is not None:
        file.with_suffix(".yaml").write_text(text)
    locate(str(file))
    assert asked == [configs]


@pytest.mark.parametrize(
    ("configs", "size", "prediction"),
    [(KIND.configs, 512, "epsilon"), (KIND.v_configs, 768, "v_prediction")],
)
def test_the_configs_that_come_with_the_package_are_those_of_the_release(
    configs: str, size: int, prediction: str
) -> None:
    with whole_configs(configs) as folder:
        for part, count in (
            ("unet", 865_910_724),
            ("vae", 83_653_863),
            ("text_encoder", 340_387_840),
        ):
            config = read_config(folder, f"{part}/config.json")
            shapes = expected_shapes(NETWORKS[part], part, config, folder / part)
            assert sum(shape.numel() for shape in shapes.values()) == count
        assert read_config(folder, "unet/config.json")["sample_size"] == size // 8
        schedule = read_config(folder, "scheduler/scheduler_config.json")
        assert schedule["prediction_type"] == prediction
        names = select_configs(list_folder(folder), STABLE_DIFFUSION.layout, "x")
        tokenizer = load_tokenizer(folder, names, 49_408)
    ids = tokenizer("a photo of a cat", padding="max_length", max_length=9).input_ids
    assert ids == [49_406, 320, 1_125, 539, 320, 2_368, 49_407, 0, 0]


def test_a_latent_consistency_model_makes_the_pictures_of_its_own_pipeline(tmp_path: Path) -> None:
    folder = tmp_path / "lcm"
    make_sd2(folder, time_cond_proj_dim=16)
    edit(folder / "model_index.json", _class_name="LatentConsistencyModelPipeline")
    edit(
        folder / "scheduler/scheduler_config.json",
        _class_name="LCMScheduler",
        original_inference_steps=50,
    )
    found = locate(str(folder))
    assert (found.default_scheduler, found.default_steps, found.is_guided) == ("lcm", 4, False)
    engine, pipelines = Engine(load(found, device="cpu"), shared=False), reference_sd2(folder)
    own = LatentConsistencyModelPipeline(
        **{**pipelines.text.components, "scheduler": LCMScheduler(**LCM)},
        requires_safety_checker=False,
    )
    own.set_progress_bar_config(disable=True)
    request = a_request(scheduler="lcm", steps=4, guidance_scale=8.5)
    expected = own(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    np.testing.assert_array_equal(pixels(engine.generate(request)[0]), np.asarray(expected))
    # Its pipeline for image to image takes other steps; this is Stable Diffusion's.
    similar = dataclasses.replace(request, source=gradient(), strength=0.5)
    made = pixels(engine.generate(similar)[0])
    np.testing.assert_array_equal(made, pipelines.picture(similar))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
