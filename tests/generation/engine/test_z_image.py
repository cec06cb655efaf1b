"""Z-Image by the engine, beside the pipelines of diffusers on the same weights."""

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
from generation.models.z_image import ZImage
from generation.values.recipe import GeneratedImage
from generation.values.request import SEED_MAX, GenerationRequest, SchedulerName, Spacing

from ..examples import a_request, gradient
from ..pipelines import pixels
from ..z_image import ZImagePipelines, reference_z_image
from .pictures import begin, found

# With its chat it takes 32 tokens or fewer, as an empty text does.
SHORT = "a cat"
LONG = "a cat and an apple, " * 4
# More than 512 tokens: the tokenizer takes two for each of these letters.
TOO_LONG = "яблоко, " * 60


@pytest.fixture(scope="module")
def engine(z_image: ZImage) -> Engine:
    return Engine(z_image)


@pytest.fixture(scope="module")
def stock(z_image_folder: Path) -> ZImagePipelines:
    return reference_z_image(z_image_folder, stock=True)


def request(**changes: Any) -> GenerationRequest:
    return a_request(**{"prompt": SHORT, "scheduler": "euler", **changes})


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
    "eight steps": {"guidance_scale": 1.0, "negative_prompt": "unread", "steps": 8},
    "guided": {"guidance_scale": 5.0},
    "one step": {"guidance_scale": 1.1, "negative_prompt": "dark", "steps": 1},
    # Its 24 tokens of image are padded to 32.
    "wide": {"guidance_scale": 4.5, "width": 96, "negative_prompt": "dark"},
    # It has 96 tokens of image, which need no padding.
    "tall": {"guidance_scale": 1.0, "width": 128, "height": 192, "prompt": LONG},
    "odd letters": {"prompt": "Ёж  🦔\n<|im_end|> café", "guidance_scale": 1.0},
    "too long": {"prompt": TOO_LONG, "guidance_scale": 1.0},
    "both too long": {"prompt": TOO_LONG, "negative_prompt": f"dark {TOO_LONG}", "steps": 2},
}


class TestTextToImage:
    @pytest.mark.parametrize("changes", TEXTS.values(), ids=TEXTS)
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, z_image_pipelines: ZImagePipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes)
        made = engine.generate(asked)[0]
        assert_same(made, z_image_pipelines.picture(asked))
        assert bool(made.recipe.unread_prompt) == (asked.prompt == TOO_LONG)

    @pytest.mark.parametrize("changes", TEXTS.values(), ids=TEXTS)
    @pytest.mark.rare
    def test_with_the_librarys_own_kernels_it_is_no_further_away(
        self, engine: Engine, stock: ZImagePipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes)
        assert_alike(engine.generate(asked)[0], stock.picture(asked))

    def test_texts_of_different_lengths_are_guided_as_in_the_pipeline(
        self, engine: Engine, z_image_pipelines: ZImagePipelines
    ) -> None:
        # The pipeline pads the shorter text and leaves the padding out of the attention, which
        # sums in another order than two calls.
        asked = request(prompt=LONG, negative_prompt="dark", guidance_scale=5.0, steps=6)
        assert_alike(engine.generate(asked)[0], z_image_pipelines.picture(asked))

    def test_each_of_four_is_the_pipelines_picture_of_its_own_seed(
        self, engine: Engine, z_image_pipelines: ZImagePipelines
    ) -> None:
        made = engine.generate(request(seed=SEED_MAX - 1, count=4, steps=2))
        for image, own in zip(made, (SEED_MAX - 1, SEED_MAX, 0, 1), strict=True):
            assert_same(image, z_image_pipelines.picture(request(seed=own, steps=2)))

    @pytest.mark.parametrize(
        "settings",
        [
            {"shift": 3.0},
            {"use_dynamic_shifting": True},
            {"use_dynamic_shifting": True, "base_shift": 0.3, "base_image_seq_len": 4},
            {"use_dynamic_shifting": True, "time_shift_type": "linear", "shift_terminal": 0.1},
        ],
        ids=str,
    )
    def test_the_models_schedule_counts_as_in_the_pipeline(
        self, z_image: ZImage, z_image_pipelines: ZImagePipelines, settings: dict[str, Any]
    ) -> None:
        config = {**z_image.scheduler_config, **settings}
        own = Engine(dataclasses.replace(z_image, scheduler_config=config), shared=False)
        asked = request(guidance_scale=1.0, width=96, steps=5)
        expected = z_image_pipelines.picture(asked, **settings)
        assert_same(own.generate(asked)[0], expected)
        assert not np.array_equal(expected, z_image_pipelines.picture(asked))

    @pytest.mark.parametrize("spacing", [None, "karras", "exponential", "beta"])
    @pytest.mark.parametrize("scheduler", ["euler", "heun"])
    @pytest.mark.rare
    def test_each_scheduler_and_spacing_gives_the_pipelines_picture(
        self,
        engine: Engine,
        z_image_pipelines: ZImagePipelines,
        scheduler: SchedulerName,
        spacing: Spacing | None,
    ) -> None:
        # From a middle step of Heun's method the pipeline starts elsewhere: it takes the number of
        # calls for the number of steps.
        strength = 0.5 if scheduler == "euler" else 1.0
        for changes in ({"guidance_scale": 3.0}, {"source": gradient(), "strength": strength}):
            asked = request(scheduler=scheduler, spacing=spacing, steps=4, **changes)
            assert_same(engine.generate(asked)[0], z_image_pipelines.picture(asked))

    def test_a_scheduler_of_diffusion_is_refused_in_a_sentence(self, engine: Engine) -> None:
        with pytest.raises(InvalidRequest, match="choose one of euler, heun"):
            engine.generate(request(scheduler="ddim"))

    def test_in_bfloat16_it_is_the_pipelines_picture_too(self, z_image_folder: Path) -> None:
        parts = load(locate(str(z_image_folder)), device="cpu", dtype="bfloat16")
        asked = request(guidance_scale=4.0, prompt=LONG)
        expected = reference_z_image(z_image_folder, dtype=torch.bfloat16).picture(asked)
        assert_same(Engine(parts, shared=False).generate(asked)[0], expected)

    @pytest.mark.parametrize(("width", "height"), [(72, 64), (64, 104)])
    def test_a_size_that_is_no_multiple_of_16_is_refused_in_a_sentence(
        self, engine: Engine, width: int, height: int
    ) -> None:
        with pytest.raises(InvalidRequest, match="needs a multiple of 16"):
            engine.generate(request(width=width, height=height))


class TestImageToImage:
    # The pipeline takes the steps that are left when `steps * (1 - strength)` is cut to a whole
    # number; here, as with every other model, `steps * strength` is cut. The two differ by one
    # step where that is no whole number.
    @pytest.mark.parametrize(
        "changes",
        [
            {"strength": 0.5, "steps": 4},
            {"strength": 1.0, "guidance_scale": 5.0},
            {"strength": 0.25, "steps": 8, "guidance_scale": 5.0, "negative_prompt": "dark"},
            {"strength": 0.6, "steps": 5, "width": 96, "prompt": LONG},
        ],
        ids=str,
    )
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, z_image_pipelines: ZImagePipelines, changes: dict[str, Any]
    ) -> None:
        width = changes.get("width", 64)
        asked = request(**{"guidance_scale": 1.0, **changes}, source=gradient(width, 64))
        assert_same(engine.generate(asked)[0], z_image_pipelines.picture(asked))


MANY: tuple[dict[str, Any], ...] = (
    {"steps": 5, "guidance_scale": 5.0},
    {"steps": 3, "guidance_scale": 1.0, "prompt": LONG, "scheduler": "heun"},
    {"steps": 4, "guidance_scale": 4.0, "prompt": LONG, "negative_prompt": "dark"},
    {"steps": 2, "guidance_scale": 1.0, "prompt": "an apple tree", "seed": 3},
    {"steps": 6, "guidance_scale": 1.5, "source": gradient(), "strength": 0.5},
    {"steps": 3, "guidance_scale": 1.0, "width": 96},
    {"steps": 1, "guidance_scale": 1.0, "prompt": "x"},
    {"steps": 2, "guidance_scale": 3.0, "negative_prompt": LONG},
)


class TestBesideOthers:
    def test_an_image_is_the_same_alone_beside_seven_others_and_after_a_restart(
        self, engine: Engine, z_image_folder: Path
    ) -> None:
        requests = [request(**changes) for changes in MANY]
        together = step_by_step(engine, requests)
        again = Engine(load(locate(str(z_image_folder)), device="cpu", dtype="float32"))
        for asked, made in zip(requests, together, strict=True):
            [alone] = again.generate(asked)
            assert alone == made

    def test_texts_of_other_lengths_share_a_call_if_they_are_padded_alike(
        self, engine: Engine
    ) -> None:
        keys = [
            begin(engine, request(prompt=prompt, guidance_scale=1.0))[0].batch_key
            for prompt in ("a cat", "an apple tree", LONG)
        ]
        assert keys[0] == keys[1] != keys[2]


def step_by_step(engine: Engine, requests: list[GenerationRequest]) -> list[GeneratedImage]:
    """Begin a request at each round, and finish all together."""
    arriving = iter(requests)
    running = []
    while (asked := next(arriving, None)) or not all(image.done for image in running):
        if asked:
            running += begin(engine, asked)
        engine.step(running)
    return [found(picture) for picture in engine.finish(running)]


def test_guidance_and_the_text_change_the_picture(engine: Engine) -> None:
    """Otherwise the pictures above would be equal whatever is done with them."""
    pictures = [
        pixels(engine.generate(request(**changes))[0])
        for changes in (
            {"guidance_scale": 1.0},
            {"guidance_scale": 5.0},
            {"guidance_scale": 5.0, "negative_prompt": "dark"},
            {"guidance_scale": 1.0, "prompt": LONG},
        )
    ]
    for one, other in itertools.combinations(pictures, 2):
        assert np.count_nonzero(one != other) > 0.01 * one.size
