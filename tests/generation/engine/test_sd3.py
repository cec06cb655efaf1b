"""Stable Diffusion 3.5 by the engine, beside the pipelines of diffusers on the same weights."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generation.engine.engine import Engine
from generation.errors import InvalidRequest
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.stable_diffusion_3 import StableDiffusion3
from generation.values.recipe import GeneratedImage
from generation.values.request import SEED_MAX, GenerationRequest, SchedulerName, Spacing

from ..examples import a_request, gradient
from ..pipelines import pixels
from ..sd3 import SD3Pipelines, make_sd3, reference_sd3
from .pictures import begin, found

# More tokens than CLIP reads, and fewer than T5 reads.
LONG = "a cat and an apple, " * 9
# More tokens than T5 reads.
TOO_LONG = "a cat and an apple, " * 40


@pytest.fixture(scope="module")
def engine(sd3: StableDiffusion3) -> Engine:
    return Engine(sd3)


@pytest.fixture(scope="module")
def stock(sd3_folder: Path) -> SD3Pipelines:
    return reference_sd3(sd3_folder, stock=True)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without T5."""
    folder = tmp_path_factory.mktemp("models") / "without-t5"
    make_sd3(folder, with_t5=False)
    return folder


def request(**changes: Any) -> GenerationRequest:
    return a_request(**{"prompt": "a red apple", "scheduler": "euler", **changes})


def assert_same(made: GeneratedImage, expected: np.ndarray) -> None:
    picture = pixels(made)
    # A picture without contrast would make any comparison easy.
    assert picture.std() > 10
    np.testing.assert_array_equal(picture, expected)


def assert_alike(made: GeneratedImage, expected: np.ndarray) -> None:
    """Every value within one of 255, and at least 99.9 percent equal."""
    picture = pixels(made)
    assert picture.std() > 10
    away = np.abs(picture.astype(int) - expected.astype(int))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size


TEXTS: dict[str, dict[str, Any]] = {
    "no negative prompt": {"guidance_scale": 7.0},
    "a negative prompt": {"guidance_scale": 4.5, "negative_prompt": "dark"},
    "unguided": {"guidance_scale": 1.0, "negative_prompt": "unread", "steps": 4},
    "wide": {"width": 96, "guidance_scale": 3.0, "negative_prompt": "dark"},
    "tall": {"height": 112, "guidance_scale": 1.0, "steps": 2},
    "long": {"prompt": LONG, "guidance_scale": 4.0},
    "too long": {"prompt": TOO_LONG, "negative_prompt": f"dark {TOO_LONG}", "steps": 2},
    "odd letters": {"prompt": "Ёж  🦔\n</s> café", "guidance_scale": 1.0},
    "one step": {"steps": 1, "guidance_scale": 1.5},
}
IMAGES: dict[str, dict[str, Any]] = {
    "weak": {"strength": 0.25, "steps": 8, "guidance_scale": 4.5, "negative_prompt": "dark"},
    "half": {"strength": 0.5, "steps": 4, "guidance_scale": 1.0},
    "whole": {"strength": 1.0, "guidance_scale": 5.0},
    "wide": {"strength": 0.6, "steps": 5, "width": 96, "prompt": LONG},
}


class TestTextToImage:
    @pytest.mark.parametrize("changes", TEXTS.values(), ids=TEXTS)
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, sd3_pipelines: SD3Pipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes)
        made = engine.generate(asked)[0]
        assert_same(made, sd3_pipelines.picture(asked))
        assert bool(made.recipe.unread_prompt) == (asked.prompt == TOO_LONG)

    @pytest.mark.parametrize("changes", TEXTS.values(), ids=TEXTS)
    @pytest.mark.rare
    def test_with_the_librarys_own_kernels_it_is_no_further_away(
        self, engine: Engine, stock: SD3Pipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes)
        assert_alike(engine.generate(asked)[0], stock.picture(asked))

    def test_each_of_four_is_the_pipelines_picture_of_its_own_seed(
        self, engine: Engine, sd3_pipelines: SD3Pipelines
    ) -> None:
        made = engine.generate(request(seed=SEED_MAX - 1, count=4, steps=2))
        for image, own in zip(made, (SEED_MAX - 1, SEED_MAX, 0, 1), strict=True):
            assert_same(image, sd3_pipelines.picture(request(seed=own, steps=2)))

    @pytest.mark.parametrize(
        "settings",
        [
            {"shift": 1.0},
            {"use_dynamic_shifting": True},
            {"use_dynamic_shifting": True, "base_shift": 0.3, "base_image_seq_len": 4},
        ],
        ids=str,
    )
    def test_the_models_schedule_counts_as_in_the_pipeline(
        self, sd3: StableDiffusion3, sd3_pipelines: SD3Pipelines, settings: dict[str, Any]
    ) -> None:
        config = {**sd3.scheduler_config, **settings}
        own = Engine(dataclasses.replace(sd3, scheduler_config=config), shared=False)
        asked = request(guidance_scale=1.0, width=96, steps=5)
        expected = sd3_pipelines.picture(asked, **settings)
        assert_same(own.generate(asked)[0], expected)
        assert not np.array_equal(expected, sd3_pipelines.picture(asked))

    @pytest.mark.parametrize("spacing", [None, "karras", "exponential", "beta"])
    @pytest.mark.parametrize("scheduler", ["euler", "heun"])
    @pytest.mark.rare
    def test_each_scheduler_and_spacing_gives_the_pipelines_picture(
        self,
        engine: Engine,
        sd3_pipelines: SD3Pipelines,
        scheduler: SchedulerName,
        spacing: Spacing | None,
    ) -> None:
        asked = request(scheduler=scheduler, spacing=spacing, steps=4, guidance_scale=3.0)
        assert_same(engine.generate(asked)[0], sd3_pipelines.picture(asked))

    def test_in_bfloat16_it_is_the_pipelines_picture_too(self, sd3_folder: Path) -> None:
        model = load(locate(str(sd3_folder)), device="cpu", dtype="bfloat16")
        asked = request(guidance_scale=4.0, prompt=LONG)
        expected = reference_sd3(sd3_folder, dtype=torch.bfloat16).picture(asked)
        assert_same(Engine(model, shared=False).generate(asked)[0], expected)

    @pytest.mark.parametrize(("width", "height"), [(72, 64), (64, 104)])
    def test_a_size_that_is_no_multiple_of_16_is_refused_in_a_sentence(
        self, engine: Engine, width: int, height: int
    ) -> None:
        with pytest.raises(InvalidRequest, match="needs a multiple of 16"):
            engine.generate(request(width=width, height=height))


class TestImageToImage:
    @pytest.mark.parametrize("changes", IMAGES.values(), ids=IMAGES)
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, sd3_pipelines: SD3Pipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes, source=gradient(changes.get("width", 64), 64))
        assert_same(engine.generate(asked)[0], sd3_pipelines.picture(asked))

    @pytest.mark.parametrize("changes", IMAGES.values(), ids=IMAGES)
    @pytest.mark.rare
    def test_with_the_librarys_own_kernels_it_is_no_further_away(
        self, engine: Engine, stock: SD3Pipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes, source=gradient(changes.get("width", 64), 64))
        assert_alike(engine.generate(asked)[0], stock.picture(asked))


class TestWithoutT5:
    def test_the_picture_is_the_pipelines_from_text_and_from_a_picture(
        self, small_folder: Path, engine: Engine
    ) -> None:
        own = Engine(load(locate(str(small_folder)), device="cpu"), shared=False)
        pipelines = reference_sd3(small_folder)
        for asked in (
            request(guidance_scale=4.0, negative_prompt="dark"),
            request(source=gradient(), strength=0.5, steps=4),
        ):
            made = own.generate(asked)[0]
            assert_same(made, pipelines.picture(asked))
            assert made.pixels != engine.generate(asked)[0].pixels

    def test_what_clip_does_not_read_is_said(self, small_folder: Path) -> None:
        own = Engine(load(locate(str(small_folder)), device="cpu"), shared=False)
        assert own.generate(request(prompt=LONG, steps=1))[0].recipe.unread_prompt


class TestBesideOthers:
    MANY = (
        request(seed=1, steps=5, guidance_scale=5.0),
        request(seed=2, steps=7, negative_prompt="dark", scheduler="heun"),
        request(seed=3, guidance_scale=1.0, steps=5),
        request(seed=4, width=96),
        request(seed=5, prompt=LONG, count=2),
        request(seed=6, source=gradient(), strength=0.5, steps=6),
        request(seed=7, steps=1, guidance_scale=1.0),
    )

    def test_a_picture_has_the_same_bits_alone_beside_seven_others_and_after_a_restart(
        self, engine: Engine, sd3_folder: Path
    ) -> None:
        mixed = [image for asked in self.MANY for image in begin(engine, asked)]
        assert len(mixed) == 8
        while not all(image.done for image in mixed):
            engine.step([image for image in mixed if not image.done])
        together = [found(picture) for picture in engine.finish(mixed)]
        restarted = Engine(load(locate(str(sd3_folder)), device="cpu"))
        for again in (engine, restarted):
            single = [image for asked in self.MANY for image in again.generate(asked)]
            assert single == together

    def test_guided_and_unguided_pictures_share_a_call(self, engine: Engine) -> None:
        keys = [
            begin(engine, request(**changes))[0].batch_key
            for changes in ({}, {"guidance_scale": 1.0}, {"prompt": LONG}, {"width": 96})
        ]
        assert keys[0] == keys[1] == keys[2] != keys[3]


def test_guidance_and_each_text_change_the_picture(engine: Engine) -> None:
    """Otherwise the pictures above would be equal whatever is done with them."""
    pictures = [
        pixels(engine.generate(request(**changes))[0])
        for changes in (
            {"guidance_scale": 1.0},
            {"guidance_scale": 5.0},
            {"guidance_scale": 5.0, "negative_prompt": "dark"},
            {"guidance_scale": 1.0, "prompt": LONG},
            # Only T5 reads where it differs from the one before.
            {"guidance_scale": 1.0, "prompt": f"{LONG} red"},
        )
    ]
    for one, other in itertools.combinations(pictures, 2):
        assert np.count_nonzero(one != other) > 0.01 * one.size


def test_the_recipe_makes_the_picture_again(engine: Engine) -> None:
    made = engine.generate(request(negative_prompt="dark"))[0]
    assert engine.generate(made.recipe.request(None))[0].pixels == made.pixels
