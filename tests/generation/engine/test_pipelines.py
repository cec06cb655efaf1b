"""The engine beside the pipelines of diffusers on the same weights."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation.engine.engine import Engine
from generation.models.loading import load
from generation.models.locate import locate, starter_folder
from generation.models.stable_diffusion import StableDiffusion
from generation.models.text.tokens import tokenize
from generation.values.events import Progress
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import SEED_MAX, GenerationRequest, SchedulerName

from .. import lms
from ..examples import a_request, gradient
from ..pipelines import Pipelines, pixels
from .pictures import BOTH, LONG, scaled

SETTINGS: tuple[dict[str, Any], ...] = (
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"prediction_type": "v_prediction", "timestep_spacing": "linspace"},
    {"beta_schedule": "linear", "set_alpha_to_one": True},
)


@pytest.fixture(scope="module")
def stock() -> Pipelines:
    return Pipelines.load(starter_folder(), stock=True)


def assert_same(made: GeneratedImage, expected: np.ndarray) -> None:
    picture = pixels(made)
    # A picture without contrast would make any comparison easy.
    assert picture.std() > 10
    np.testing.assert_array_equal(picture, expected)


def assert_alike(made: np.ndarray, expected: np.ndarray) -> None:
    """Every pixel within one level, and nearly all of them equal."""
    assert made.std() > 10
    away = np.abs(made.astype(int) - expected.astype(int))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.01 * away.size


def as_read(parts: StableDiffusion, request: GenerationRequest) -> GenerationRequest:
    """Return `request` without the ends of its prompts that the model leaves out.

    The pipeline would read more with the starter, over where the sketches are.
    """
    profile, tokenizer = parts.profile, parts.tokenizer

    def read(text: str) -> str:
        unread = tokenize(tokenizer, text, profile.token_limit, profile.prompt_limit).unread
        return text.strip().removesuffix(unread)

    return dataclasses.replace(
        request, prompt=read(request.prompt), negative_prompt=read(request.negative_prompt)
    )


class TestTextToImage:
    @pytest.mark.parametrize("scheduler", BOTH)
    @pytest.mark.parametrize(
        "changes",
        [
            {"guidance_scale": 7.5},
            {"guidance_scale": 7.5, "negative_prompt": "a grinning face", "height": 96},
            {"guidance_scale": 1.0, "negative_prompt": "a grinning face", "steps": 7},
            {"width": 104, "height": 40, "negative_prompt": "blurry"},
            {"steps": 1, "guidance_scale": 1.5},
            {"guidance_scale": 9.0, "guidance_rescale": 0.7},
            {"prompt": "Ёж  🦔\n<|endoftext|> café", "steps": 3},
        ],
        ids=str,
    )
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self,
        engine: Engine,
        pipelines: Pipelines,
        scheduler: SchedulerName,
        changes: dict[str, Any],
    ) -> None:
        request = a_request(scheduler=scheduler, **changes)
        assert_same(engine.generate(request)[0], pipelines.picture(request))

    @pytest.mark.parametrize("scheduler", BOTH)
    def test_of_a_long_prompt_it_is_that_of_what_is_read(
        self,
        starter: StableDiffusion,
        engine: Engine,
        pipelines: Pipelines,
        scheduler: SchedulerName,
    ) -> None:
        request = a_request(scheduler=scheduler, prompt=LONG, negative_prompt=f"dark {LONG}")
        read = as_read(starter, request)
        assert len(read.prompt) < len(LONG)
        assert_same(engine.generate(request)[0], pipelines.picture(read))

    @pytest.mark.parametrize("scheduler", BOTH)
    def test_a_long_prompt_is_cut_as_the_pipeline_cuts_it(
        self, sd15_engine: Engine, sd15_pipelines: Pipelines, scheduler: SchedulerName
    ) -> None:
        request = a_request(scheduler=scheduler, prompt=LONG, negative_prompt=f"dark {LONG}")
        made = sd15_engine.generate(request)[0]
        assert made.recipe.unread_prompt
        assert_same(made, sd15_pipelines.picture(request))

    @pytest.mark.parametrize(
        ("scheduler", "guided", "size"),
        [*itertools.product(BOTH, (True, False), ((64, 64), (64, 96), (104, 64)))],
    )
    @pytest.mark.rare
    def test_nothing_depends_on_the_starter_model(
        self,
        sd15_engine: Engine,
        sd15_pipelines: Pipelines,
        scheduler: SchedulerName,
        guided: bool,
        size: tuple[int, int],
    ) -> None:
        request = a_request(
            scheduler=scheduler,
            guidance_scale=7.5 if guided else 1.0,
            negative_prompt="dark" if size == (64, 96) else "",
            width=size[0],
            height=size[1],
            prompt=LONG,
            steps=6,
        )
        made, expected = sd15_engine.generate(request)[0], sd15_pipelines.picture(request)
        if guided:
            assert_same(made, expected)
        else:
            # In so small a network a row alone may get other bits than in a call of two, and
            # the engine then keeps to calls of two.
            assert_alike(pixels(made), expected)

    @pytest.mark.parametrize("seed", [11, SEED_MAX - 1])
    def test_each_of_four_is_the_pipelines_picture_of_its_own_seed(
        self, engine: Engine, pipelines: Pipelines, seed: int
    ) -> None:
        request = a_request(seed=seed, count=4, steps=2)
        made = engine.generate(request)
        seeds = [(seed + index) % 2**32 for index in range(4)]
        assert [image.recipe.seed for image in made] == seeds
        assert [image.index for image in made] == [0, 1, 2, 3]
        for image, own in zip(made, seeds, strict=True):
            assert_same(image, pipelines.picture(a_request(seed=own, steps=2)))


class TestStockPipeline:
    """The libraries' own networks, whose kernels sum in another order."""

    @pytest.mark.parametrize("scheduler", BOTH)
    @pytest.mark.parametrize(
        "changes",
        [
            {"guidance_scale": 7.5, "steps": 12},
            {"guidance_scale": 1.0, "height": 96},
            {"guidance_scale": 3.0, "width": 104, "negative_prompt": "dark"},
        ],
        ids=str,
    )
    @pytest.mark.rare
    def test_no_pixel_is_further_than_a_level_from_it(
        self,
        engine: Engine,
        stock: Pipelines,
        scheduler: SchedulerName,
        changes: dict[str, Any],
    ) -> None:
        request = a_request(scheduler=scheduler, **changes)
        assert_alike(pixels(engine.generate(request)[0]), stock.picture(request))

    @pytest.mark.rare
    def test_similar_images_are_no_further_away(
        self, engine: Engine, stock: Pipelines, source: Pixels
    ) -> None:
        request = a_request(source=source, strength=0.6, steps=8)
        assert_alike(pixels(engine.generate(request)[0]), stock.picture(request))


class TestSchedulerSettings:
    @pytest.mark.parametrize("scheduler", BOTH)
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_the_models_settings_count_as_in_the_pipeline(
        self,
        sd15: StableDiffusion,
        sd15_pipelines: Pipelines,
        scheduler: SchedulerName,
        settings: dict[str, Any],
    ) -> None:
        config = {**sd15.scheduler_config, **settings}
        engine = Engine(dataclasses.replace(sd15, scheduler_config=config))
        request = a_request(scheduler=scheduler, steps=6)
        assert_same(engine.generate(request)[0], sd15_pipelines.picture(request, **settings))

    def test_a_model_for_zero_terminal_snr_gives_the_pipelines_picture(
        self, sd15: StableDiffusion, sd15_pipelines: Pipelines
    ) -> None:
        settings = {
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "prediction_type": "v_prediction",
        }
        config = {**sd15.scheduler_config, **settings}
        engine = Engine(dataclasses.replace(sd15, scheduler_config=config))
        request = a_request(guidance_scale=7.5)
        assert_same(engine.generate(request)[0], sd15_pipelines.picture(request, **settings))

    @pytest.mark.parametrize("scheduler", BOTH)
    @pytest.mark.rare
    def test_settings_are_read_from_the_models_file(
        self, tmp_path: Path, scheduler: SchedulerName
    ) -> None:
        folder = tmp_path / "other"
        link_model(starter_folder(), folder)
        file = folder / "scheduler/scheduler_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
        file.unlink()
        file.write_text(json.dumps(config), encoding="utf-8")
        engine = Engine(load(locate(str(folder)), device="cpu", dtype="float32"))
        request = a_request(scheduler=scheduler)
        made = engine.generate(request)[0]
        assert_same(made, Pipelines.load(folder).picture(request))
        assert made.recipe.scheduler_settings["prediction_type"] == "v_prediction"

    @pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
    def test_what_the_pipeline_corrects_in_an_old_config_is_corrected(
        self, sd15: StableDiffusion, sd15_folder: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "old"
        link_model(sd15_folder, folder)
        file = folder / "scheduler/scheduler_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {"_class_name": "DDIMScheduler", "steps_offset": 0, "clip_sample": True}
        file.unlink()
        file.write_text(json.dumps(config), encoding="utf-8")
        engine = Engine(dataclasses.replace(sd15, scheduler_config=config))
        request = a_request()
        made = engine.generate(request)[0]
        assert_same(made, Pipelines.load(folder).picture(request))
        assert made.recipe.scheduler_settings["steps_offset"] == 1
        assert made.recipe.scheduler_settings["clip_sample"] is False


def link_model(model: Path, folder: Path) -> None:
    for file in model.rglob("*"):
        if file.is_file():
            link = folder / file.relative_to(model)
            link.parent.mkdir(parents=True, exist_ok=True)
            # Links that lead out of a model's folder are refused.
            shutil.copyfile(file, link)


class TestImageToImage:
    @pytest.mark.parametrize(
        "changes",
        [
            {"strength": 0.3, "steps": 10},
            {"strength": 1.0},
            {"strength": 0.6, "steps": 5, "guidance_scale": 1.0},
            {"strength": 0.58, "steps": 5, "guidance_scale": 7.5, "negative_prompt": "dark"},
            {"strength": 0.5, "width": 104, "height": 64, "prompt": LONG},
        ],
        ids=str,
    )
    def test_with_ddim_it_is_the_pipelines_picture_to_the_last_bit(
        self,
        starter: StableDiffusion,
        engine: Engine,
        pipelines: Pipelines,
        source: Pixels,
        changes: dict[str, Any],
    ) -> None:
        plain = a_request(scheduler="ddim", **{**changes, "strength": None})
        request = dataclasses.replace(
            plain,
            source=scaled(source, plain.width, plain.height),
            strength=changes["strength"],
        )
        assert_same(engine.generate(request)[0], pipelines.picture(as_read(starter, request)))

    @pytest.mark.parametrize(("steps", "strength"), [(10, 0.3), (50, 0.58), (10, 1.0)])
    @pytest.mark.parametrize("size", [(64, 64), (104, 64)])
    @pytest.mark.rare
    def test_nothing_depends_on_the_starter_model(
        self,
        sd15_engine: Engine,
        sd15_pipelines: Pipelines,
        size: tuple[int, int],
        steps: int,
        strength: float,
    ) -> None:
        width, height = size
        request = a_request(
            width=width, height=height, source=gradient(*size), strength=strength, steps=steps
        )
        assert_same(sd15_engine.generate(request)[0], sd15_pipelines.picture(request))

    def test_with_lms_from_the_first_step_it_is_the_pipelines_picture(
        self, engine: Engine, pipelines: Pipelines, source: Pixels
    ) -> None:
        request = a_request(scheduler="lms", source=source, strength=1.0)
        assert_same(engine.generate(request)[0], pipelines.picture(request))

    @pytest.mark.parametrize(("steps", "strength"), [(6, 1.0), (10, 0.8), (10, 0.5), (9, 0.23)])
    def test_with_lms_it_is_the_picture_that_the_definition_gives(
        self,
        engine: Engine,
        starter: StableDiffusion,
        source: Pixels,
        steps: int,
        strength: float,
    ) -> None:
        request = a_request(
            scheduler="lms",
            source=source,
            strength=strength,
            steps=steps,
            negative_prompt="dark",
        )
        away = pixels(engine.generate(request)[0]) - lms.picture(starter, request)
        # The last bits differ: one is computed in float64, the other in float32.
        assert np.abs(away).max() <= 1
        assert np.count_nonzero(away) < 0.01 * away.size

    def test_with_lms_from_a_middle_step_the_pipeline_is_far_from_the_definition(
        self, starter: StableDiffusion, pipelines: Pipelines, source: Pixels
    ) -> None:
        request = a_request(scheduler="lms", source=source, strength=0.8, steps=10)
        away = pipelines.picture(request) - lms.picture(starter, request)
        # Levels on average, where the engine is at most one away and in few pixels.
        assert np.abs(away).mean() > 2

    @pytest.mark.parametrize(
        ("steps", "strength", "taken"), [(50, 0.58, 28), (4, 0.05, 1), (10, 0.3, 3), (7, 1.0, 7)]
    )
    def test_the_share_of_the_steps_is_cut_to_a_whole_number_but_at_least_one(
        self, sd15_engine: Engine, steps: int, strength: float, taken: int
    ) -> None:
        request = a_request(source=gradient(), strength=strength, steps=steps)
        told: list[Progress] = []
        sd15_engine.generate(request, told.append)
        assert told == [Progress(step, taken) for step in range(1, taken + 1)]

    @pytest.mark.parametrize("scheduler", BOTH)
    def test_the_picture_moves_away_from_its_source_with_the_strength(
        self, engine: Engine, starter: StableDiffusion, source: Pixels, scheduler: SchedulerName
    ) -> None:
        def distance(strength: float) -> float:
            request = a_request(
                prompt="cat face on a blue background",
                scheduler=scheduler,
                source=source,
                strength=strength,
                steps=6,
                guidance_scale=starter.profile.default_guidance_scale,
                count=2,
            )
            made = np.stack([pixels(image) for image in engine.generate(request)])
            return float(np.abs(made.astype(int) - rgb).mean())

        rgb = np.frombuffer(source.rgb, np.uint8).reshape(64, 64, 3).astype(int)
        distances = [distance(strength) for strength in (0.17, 0.5, 1.0)]
        assert distances == sorted(distances)
        # The autoencoder alone costs a few levels; another picture is dozens away.
        assert distances[0] < 0.2 * distances[-1]
        assert distances[-1] > 60
