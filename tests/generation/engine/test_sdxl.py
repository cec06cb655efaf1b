"""The engine beside the pipelines of diffusers for Stable Diffusion XL, on the same weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation.engine.engine import Engine
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.stable_diffusion_xl import StableDiffusionXL
from generation.values.recipe import GeneratedImage
from generation.values.request import SEED_MAX, SchedulerName

from ..examples import a_request, gradient
from ..pipelines import SCHEDULERS, pixels
from ..sdxl import SDXLPipelines, make_sdxl, reference_sdxl
from .pictures import LONG, begin, found

ZERO_SNR: dict[str, Any] = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
LCM = {"_class_name": "LCMScheduler", "original_inference_steps": 50}
TEXTS: dict[str, dict[str, Any]] = {
    "no negative prompt": {"guidance_scale": 7.5},
    "a negative prompt": {"guidance_scale": 5.0, "negative_prompt": "dark"},
    "rescaled": {"guidance_scale": 9.0, "guidance_rescale": 0.7, "negative_prompt": "dark"},
    "unguided": {"guidance_scale": 1.0, "negative_prompt": "dark", "steps": 4},
    "lms": {"scheduler": "lms", "steps": 5},
    "wide": {"width": 104, "guidance_scale": 3.0, "negative_prompt": "dark"},
    "tall": {"height": 96, "scheduler": "lms", "steps": 2},
    "too long": {"prompt": LONG, "negative_prompt": f"dark {LONG}"},
    "one step": {"steps": 1, "guidance_scale": 1.5},
}
IMAGES: dict[str, dict[str, Any]] = {
    "weak": {"strength": 0.3, "steps": 10},
    "whole": {"strength": 1.0},
    "rescaled": {"strength": 0.5, "steps": 6, "guidance_rescale": 0.3},
    "guided": {"strength": 0.58, "steps": 5, "guidance_scale": 7.5, "negative_prompt": "dark"},
    "wide": {"strength": 0.6, "steps": 5, "width": 104, "guidance_scale": 1.0},
}


@pytest.fixture(scope="module")
def engine(sdxl: StableDiffusionXL) -> Engine:
    return Engine(sdxl)


@pytest.fixture(scope="module")
def stock(sdxl_folder: Path) -> SDXLPipelines:
    return reference_sdxl(sdxl_folder, stock=True)


def assert_same(made: GeneratedImage, expected: np.ndarray) -> None:
    picture = pixels(made)
    # A picture without contrast would make any comparison easy.
    assert picture.std() > 10
    np.testing.assert_array_equal(picture, expected)


def assert_alike(made: GeneratedImage, expected: np.ndarray) -> None:
    """Every value within one level, and at least 99.9 % equal."""
    picture = pixels(made).astype(int)
    assert picture.std() > 10
    away = np.abs(picture - expected)
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size


class TestTextToImage:
    @pytest.mark.parametrize("changes", TEXTS.values(), ids=TEXTS)
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, sdxl_pipelines: SDXLPipelines, changes: dict[str, Any]
    ) -> None:
        request = a_request(**changes)
        made = engine.generate(request)[0]
        assert_same(made, sdxl_pipelines.picture(request))
        assert bool(made.recipe.unread_prompt) == (request.prompt == LONG)

    @pytest.mark.parametrize("scheduler", [*SCHEDULERS])
    @pytest.mark.rare
    def test_each_scheduler_makes_the_pipelines_picture(
        self, engine: Engine, sdxl_pipelines: SDXLPipelines, scheduler: SchedulerName
    ) -> None:
        request = a_request(scheduler=scheduler, steps=5, guidance_scale=5.0)
        assert_same(engine.generate(request)[0], sdxl_pipelines.picture(request))

    @pytest.mark.parametrize("changes", TEXTS.values(), ids=TEXTS)
    @pytest.mark.rare
    def test_with_the_librarys_own_kernels_it_is_no_further_away(
        self, engine: Engine, stock: SDXLPipelines, changes: dict[str, Any]
    ) -> None:
        request = a_request(**changes)
        assert_alike(engine.generate(request)[0], stock.picture(request))

    def test_each_of_four_is_the_pipelines_picture_of_its_own_seed(
        self, engine: Engine, sdxl_pipelines: SDXLPipelines
    ) -> None:
        made = engine.generate(a_request(seed=SEED_MAX - 1, count=4, steps=2))
        for image, own in zip(made, (SEED_MAX - 1, SEED_MAX, 0, 1), strict=True):
            assert_same(image, sdxl_pipelines.picture(a_request(seed=own, steps=2)))

    @pytest.mark.parametrize(
        "settings",
        [
            {"timestep_spacing": "trailing"},
            {"prediction_type": "v_prediction"},
            {"beta_schedule": "linear"},
            ZERO_SNR,
        ],
        ids=str,
    )
    def test_the_models_schedule_counts_as_in_the_pipeline(
        self, sdxl: StableDiffusionXL, sdxl_pipelines: SDXLPipelines, settings: dict[str, Any]
    ) -> None:
        config = {**sdxl.scheduler_config, **settings}
        own = Engine(dataclasses.replace(sdxl, scheduler_config=config), shared=False)
        request = a_request(steps=5)
        expected = sdxl_pipelines.picture(request, **settings)
        assert_same(own.generate(request)[0], expected)
        assert not np.array_equal(expected, sdxl_pipelines.picture(request))

    def test_guidance_can_be_rescaled_with_a_schedule_that_ends_in_noise_alone(
        self, sdxl: StableDiffusionXL, sdxl_pipelines: SDXLPipelines
    ) -> None:
        config = {**sdxl.scheduler_config, **ZERO_SNR}
        own = Engine(dataclasses.replace(sdxl, scheduler_config=config), shared=False)
        request = a_request(guidance_scale=9.0, guidance_rescale=0.7, steps=5)
        made = own.generate(request)[0]
        assert_same(made, sdxl_pipelines.picture(request, **ZERO_SNR))
        plain = dataclasses.replace(request, guidance_rescale=None)
        assert made.pixels != own.generate(plain)[0].pixels
        assert made.recipe.guidance_rescale == 0.7
        assert own.generate(made.recipe.request(None))[0].pixels == made.pixels

    def test_an_empty_negative_prompt_is_read_where_the_model_says_so(
        self, sdxl: StableDiffusionXL, sdxl_pipelines: SDXLPipelines
    ) -> None:
        request = a_request(guidance_scale=7.5)
        own = Engine(dataclasses.replace(sdxl, zeros_for_nothing=False), shared=False)
        made = own.generate(request)[0]
        pipeline = sdxl_pipelines.text
        pipeline.register_to_config(force_zeros_for_empty_prompt=False)
        try:
            expected = sdxl_pipelines.picture(request)
        finally:
            pipeline.register_to_config(force_zeros_for_empty_prompt=True)
        assert_same(made, expected)
        assert not np.array_equal(expected, sdxl_pipelines.picture(request))


class TestImageToImage:
    @pytest.mark.parametrize("changes", IMAGES.values(), ids=IMAGES)
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, sdxl_pipelines: SDXLPipelines, changes: dict[str, Any]
    ) -> None:
        size = changes.get("width", 64)
        request = a_request(**changes, source=gradient(size))
        assert_same(engine.generate(request)[0], sdxl_pipelines.picture(request))

    @pytest.mark.parametrize("changes", IMAGES.values(), ids=IMAGES)
    @pytest.mark.rare
    def test_with_the_librarys_own_kernels_it_is_no_further_away(
        self, engine: Engine, stock: SDXLPipelines, changes: dict[str, Any]
    ) -> None:
        request = a_request(**changes, source=gradient(changes.get("width", 64)))
        assert_alike(engine.generate(request)[0], stock.picture(request))


def test_latents_with_a_mean_and_a_deviation_are_scaled_as_in_the_pipeline(tmp_path: Path) -> None:
    folder = tmp_path / "statistics"
    numbers = {"latents_mean": [0.1, -0.3, 0.2, 0.0], "latents_std": [1.2, 0.8, 1.0, 0.5]}
    make_sdxl(folder, vae=numbers)
    engine = Engine(load(locate(str(folder)), device="cpu"), shared=False)
    pipelines = reference_sdxl(folder)
    for request in (a_request(), a_request(source=gradient(), strength=0.6, steps=5)):
        assert_same(engine.generate(request)[0], pipelines.picture(request))


@pytest.fixture(scope="module")
def lcm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "lcm-sdxl"
    make_sdxl(made, unet={"time_cond_proj_dim": 15})
    file = made / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | LCM))
    return made


@pytest.fixture(scope="module")
def lcm(lcm_folder: Path) -> Engine:
    return Engine(load(locate(str(lcm_folder)), device="cpu"))


class TestLatentConsistency:
    """A UNet that reads the guidance scale, and takes no second row for it."""

    def test_its_configs_say_so(self, lcm_folder: Path) -> None:
        found = locate(str(lcm_folder))
        assert (found.default_steps, found.default_guidance_scale) == (4, 8.5)
        assert found.default_scheduler == "lcm"
        assert not found.is_guided

    @pytest.mark.parametrize(
        "changes",
        [
            {"guidance_scale": 8.5, "negative_prompt": "unread"},
            {"guidance_scale": 1.0},
            {"guidance_scale": 3.0, "source": gradient(), "strength": 0.5},
        ],
        ids=["guided", "plain", "similar"],
    )
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, lcm_folder: Path, lcm: Engine, changes: dict[str, Any]
    ) -> None:
        request = a_request(scheduler="lcm", steps=4, **changes)
        assert_same(lcm.generate(request)[0], reference_sdxl(lcm_folder).picture(request))

    def test_pictures_of_different_guidance_scales_share_a_call(self, lcm: Engine) -> None:
        requests = [a_request(scheduler="lcm", guidance_scale=scale) for scale in (1.0, 4.0, 8.5)]
        images = [image for request in requests for image in begin(lcm, request)]
        assert len({image.batch_key for image in images}) == 1
        assert [image.rows for image in images] == [1, 1, 1]
        alone = [lcm.generate(request)[0].pixels for request in requests]
        assert len({picture.rgb for picture in alone}) == 3
        while not all(image.done for image in images):
            lcm.step(images)
        assert [found(image).pixels for image in lcm.finish(images)] == alone


class TestSharedCalls:
    REQUESTS = (
        a_request(seed=1),
        a_request(seed=2, steps=7, negative_prompt="dark", scheduler="lms"),
        a_request(seed=3, guidance_scale=1.0, steps=5),
        a_request(seed=4, width=96),
        a_request(seed=5, prompt=LONG, count=2),
        a_request(seed=6, source=gradient(), strength=0.5, steps=6),
        a_request(seed=7, steps=2),
    )

    def test_a_picture_has_the_same_bits_alone_beside_seven_others_and_after_a_restart(
        self, sdxl_folder: Path, engine: Engine
    ) -> None:
        mixed = [image for request in self.REQUESTS for image in begin(engine, request)]
        assert len(mixed) == 8
        done: dict[int, bytes] = {}
        for _ in range(7):
            engine.step(mixed)
        for number, image in enumerate(engine.finish(mixed)):
            done[number] = found(image).pixels.rgb
        restarted = Engine(load(locate(str(sdxl_folder)), device="cpu"))
        for again in (engine, restarted):
            single = [image for request in self.REQUESTS for image in again.generate(request)]
            assert [image.pixels.rgb for image in single] == [*done.values()]

    def test_guided_and_unguided_pictures_share_a_call(
        self, sdxl: StableDiffusionXL, engine: Engine
    ) -> None:
        guided, plain = begin(engine, a_request()), begin(engine, a_request(guidance_scale=1.0))
        assert guided[0].batch_key == plain[0].batch_key
        wide = begin(engine, a_request(width=96))
        other = dataclasses.replace(sdxl, weights_sha256="0" * 64)
        assert wide[0].batch_key != guided[0].batch_key
        shapes = guided[0].latents.shape, guided[0].conditional
        assert other.batch_key(*shapes) != sdxl.batch_key(*shapes)


def test_the_recipe_makes_the_picture_again(engine: Engine) -> None:
    made = engine.generate(a_request(negative_prompt="dark"))[0]
    again = engine.generate(made.recipe.request(None))[0]
    assert again.recipe.pixels_sha256 == made.recipe.pixels_sha256
    assert json.loads(made.recipe.to_json())["dtype"] == "float32"
