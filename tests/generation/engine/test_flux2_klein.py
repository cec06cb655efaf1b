"""FLUX.2 klein by the engine, beside the pipelines of diffusers on the same weights."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from generation.engine import networks, noise
from generation.engine.engine import Engine
from generation.errors import InvalidRequest
from generation.images.pillow import reference_pixels, to_image, to_pixels
from generation.models.flux2_klein import Flux2Klein
from generation.models.loading import load
from generation.models.locate import locate
from generation.values.recipe import GeneratedImage, Recipe
from generation.values.request import SEED_MAX, GenerationRequest

from ..examples import a_request, gradient
from ..flux2_klein import Flux2KleinPipelines, make_flux2_klein
from ..pipelines import pixels
from .pictures import begin, found

# More than 512 tokens: the tokenizer takes two for each of these letters.
TOO_LONG = "яблоко, " * 60
GRADIENT, WIDE = gradient(), gradient(96, 64)
RED = to_pixels(Image.new("RGB", (64, 64), "red"), 64, 64)
BLUE = to_pixels(Image.new("RGB", (80, 64), "blue"), 80, 64)


@pytest.fixture(scope="module")
def engine(klein: Flux2Klein) -> Engine:
    return Engine(klein)


@pytest.fixture(scope="module")
def stock(klein_folder: Path) -> Flux2KleinPipelines:
    return Flux2KleinPipelines.load(klein_folder, stock=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Flux2KleinPipelines]:
    """The model before its distillation, here and in diffusers."""
    folder = tmp_path_factory.mktemp("models") / "klein-base"
    make_flux2_klein(folder, distilled=False)
    model = load(locate(str(folder)), device="cpu", dtype="float32")
    return Engine(model, shared=False), Flux2KleinPipelines.load(folder)


def request(**changes: Any) -> GenerationRequest:
    values = {"prompt": "a cat", "scheduler": "euler", "guidance_scale": 1.0, "steps": 4}
    return a_request(**{**values, **changes})


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


CASES: dict[str, dict[str, Any]] = {
    "four steps": {},
    "one step": {"steps": 1, "prompt": "Ёж  🦔\n<|im_end|> café"},
    "tall": {"width": 96, "height": 128, "steps": 7},
    "too long": {"prompt": TOO_LONG, "steps": 2},
    "guidance that is ignored": {"guidance_scale": 7.0, "negative_prompt": "dark"},
    "one reference": {"references": (GRADIENT,)},
    "four references": {"references": (RED, WIDE, GRADIENT, BLUE), "steps": 2},
    "a reference twice": {"references": (WIDE, WIDE), "width": 80, "steps": 2},
}


class TestTextToImageAndEditing:
    @pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, klein_pipelines: Flux2KleinPipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes)
        made = engine.generate(asked)[0]
        # The pipeline has no negative prompt, and the model has no use for one.
        expected = klein_pipelines.picture(dataclasses.replace(asked, negative_prompt=""))
        assert_same(made, expected)
        assert bool(made.recipe.unread_prompt) == (asked.prompt == TOO_LONG)

    @pytest.mark.parametrize("name", ["tall", "too long", "four references"])
    @pytest.mark.rare
    def test_with_the_librarys_own_kernels_it_is_no_further_away(
        self, engine: Engine, stock: Flux2KleinPipelines, name: str
    ) -> None:
        asked = request(**CASES[name])
        assert_alike(engine.generate(asked)[0], stock.picture(asked))

    def test_references_of_any_size_become_what_the_pipeline_reads(
        self, engine: Engine, klein_pipelines: Flux2KleinPipelines
    ) -> None:
        images = [to_image(GRADIENT).resize(size) for size in ((101, 75), (70, 90))]
        read = tuple(reference_pixels(image, 16) for image in images)
        asked = request(references=read, steps=2)
        assert_same(engine.generate(asked)[0], klein_pipelines.picture(asked, images))

    def test_each_of_four_is_the_pipelines_picture_of_its_own_seed(
        self, engine: Engine, klein_pipelines: Flux2KleinPipelines
    ) -> None:
        asked = request(seed=SEED_MAX, count=4, steps=1, references=(RED,))
        for image, own in zip(engine.generate(asked), (SEED_MAX, 0, 1, 2), strict=True):
            alone = dataclasses.replace(asked, seed=own, count=1)
            assert_same(image, klein_pipelines.picture(alone))

    @pytest.mark.parametrize(
        "settings",
        [
            {"time_shift_type": "linear", "shift_terminal": 0.1},
            {"use_dynamic_shifting": False, "shift": 2.0},
        ],
        ids=str,
    )
    def test_the_models_schedule_counts_as_in_the_pipeline(
        self, klein: Flux2Klein, klein_pipelines: Flux2KleinPipelines, settings: dict[str, Any]
    ) -> None:
        config = {**klein.scheduler_config, **settings}
        own = Engine(dataclasses.replace(klein, scheduler_config=config), shared=False)
        asked = request(width=96)
        expected = klein_pipelines.picture(asked, **settings)
        assert_same(own.generate(asked)[0], expected)
        assert not np.array_equal(expected, klein_pipelines.picture(asked))


def test_in_bfloat16_it_is_the_pipelines_picture_to_the_last_bit(klein_folder: Path) -> None:
    """As on a GPU. The pipeline would draw other noise in this type, so it gets the engine's."""
    model = load(locate(str(klein_folder)), device="cpu", dtype="bfloat16")
    pipeline = Flux2KleinPipeline.from_pretrained(klein_folder, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    asked = request(references=(GRADIENT, WIDE), width=96, height=80)
    drawn = noise.draw(noise.generator(asked.seed), model.latent_shape(96, 80))
    expected = pipeline(
        prompt=asked.prompt,
        image=[to_image(one) for one in asked.reference_pixels],
        width=96,
        height=80,
        num_inference_steps=asked.steps,
        guidance_scale=1.0,
        latents=drawn.bfloat16(),
    ).images[0]
    assert_same(Engine(model, shared=False).generate(asked)[0], np.asarray(expected))


class TestBaseModel:
    """The model before its distillation: with guidance, and with a negative prompt."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"guidance_scale": 4.0},
            {"guidance_scale": 4.0, "negative_prompt": "dark", "references": (WIDE,), "width": 96},
            {"guidance_scale": 1.0, "references": (WIDE, RED)},
        ],
        ids=["guided", "negative with a reference", "unguided with references"],
    )
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, base: tuple[Engine, Flux2KleinPipelines], changes: dict[str, Any]
    ) -> None:
        asked = request(**changes, steps=2)
        engine, pipelines = base
        assert_same(engine.generate(asked)[0], pipelines.picture(asked))


class TestImageToImage:
    # The pipeline takes the steps that are left when `steps * (1 - strength)` is cut to a whole
    # number; here, as with every other model, `steps * strength` is cut. The two differ by one
    # step where that is no whole number.
    @pytest.mark.parametrize(
        "changes",
        [
            {"source": GRADIENT, "references": (GRADIENT,), "strength": 0.5},
            {"source": WIDE, "references": (WIDE, RED), "strength": 1.0, "width": 96},
        ],
        ids=["half", "all, and another reference"],
    )
    def test_it_is_the_pipelines_picture_to_the_last_bit(
        self, engine: Engine, klein_pipelines: Flux2KleinPipelines, changes: dict[str, Any]
    ) -> None:
        asked = request(**changes)
        assert_same(engine.generate(asked)[0], klein_pipelines.picture(asked))

    def test_a_low_strength_stays_near_what_the_autoencoder_makes_of_the_source(
        self, engine: Engine
    ) -> None:
        """The pipeline cannot start from a picture that it does not also look at."""
        near, far = (
            pixels(engine.generate(request(source=GRADIENT, strength=strength, steps=20))[0])
            for strength in (0.05, 1.0)
        )
        noise = pixels(engine.generate(request(steps=20))[0])
        assert np.abs(far.astype(int) - noise).mean() < np.abs(near.astype(int) - noise).mean()


MANY: tuple[dict[str, Any], ...] = (
    {"steps": 3},
    {"steps": 2, "prompt": "an apple", "references": (GRADIENT,)},
    {"steps": 4, "prompt": TOO_LONG, "references": (GRADIENT,), "seed": 3},
    {"steps": 1, "references": (RED,)},
    # As many tokens as the next one, at other places.
    {"steps": 2, "references": (WIDE,)},
    {"steps": 2, "references": (to_pixels(to_image(WIDE).rotate(90), 64, 96),)},
    {"steps": 4, "source": GRADIENT, "strength": 0.5},
    {"steps": 2, "references": (GRADIENT, RED), "width": 96},
)


class TestBesideOthers:
    def test_an_image_is_the_same_alone_beside_seven_others_and_after_a_restart(
        self, engine: Engine, klein_folder: Path
    ) -> None:
        requests = [request(**changes) for changes in MANY]
        together = step_by_step(engine, requests)
        model = load(locate(str(klein_folder)), device="cpu", dtype="float32")
        again = Engine(model, shared=False)
        for asked, made in zip(requests, together, strict=True):
            [alone] = again.generate(asked)
            assert alone == made

    def test_images_share_a_call_if_their_references_have_the_same_shapes(
        self, engine: Engine
    ) -> None:
        keys = [begin(engine, request(**changes))[0].batch_key for changes in (*MANY[:6], MANY[7])]
        assert keys[1] == keys[2] == keys[3]
        others = [keys[0], keys[1], keys[4], keys[5], keys[6]]
        assert len(set(others)) == len(others)

    def test_calls_with_references_are_estimated_from_those_without(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Measuring each new shape would keep all others waiting."""

        def refuse(*_: object) -> None:
            raise AssertionError("measured again")

        measured = engine.measured().step_seconds
        monkeypatch.setattr(networks, "measure", refuse)
        # Its rows have 52 places where others have 16.
        [image] = begin(engine, request(references=(BLUE, RED), steps=1))
        sizes = engine._networks.sizes(image.latents.shape, image.conditional)
        assert sizes.most <= max(2, max(measured) * 16 // 52)
        engine.step([image])
        assert image.done


def step_by_step(engine: Engine, requests: list[GenerationRequest]) -> list[GeneratedImage]:
    """Begin a request at each round, and finish all together."""
    arriving = iter(requests)
    running = []
    while (asked := next(arriving, None)) or not all(image.done for image in running):
        if asked:
            running += begin(engine, asked)
        engine.step(running)
    return [found(picture) for picture in engine.finish(running)]


class TestReferences:
    def test_they_stand_in_the_recipe_which_makes_the_picture_again(self, engine: Engine) -> None:
        asked = request(references=(WIDE, RED), steps=1)
        [made] = engine.generate(asked)
        assert made.recipe.reference_sha256 == [WIDE.sha256, RED.sha256]
        recipe = Recipe.from_json(made.recipe.to_json())
        assert engine.generate(recipe.request(None, (WIDE, RED))) == [made]

    def test_their_content_and_their_order_change_the_picture(self, engine: Engine) -> None:
        """Otherwise the pictures above would be equal whatever is done with them."""
        pictures = [
            pixels(engine.generate(request(references=references))[0])
            for references in ((), (RED,), (GRADIENT,), (RED, GRADIENT), (GRADIENT, RED))
        ]
        for one, other in itertools.combinations(pictures, 2):
            assert np.count_nonzero(one != other) > 0.01 * one.size

    def test_a_size_that_the_model_cannot_read_is_refused_in_a_sentence(
        self, engine: Engine
    ) -> None:
        with pytest.raises(InvalidRequest) as caught:
            engine.generate(request(references=(RED, gradient(72, 64))))
        assert str(caught.value) == (
            "Reference picture 2 is 72x64; the model klein needs multiples of 16."
        )

    @pytest.mark.parametrize(("width", "height"), [(72, 64), (64, 104)])
    def test_a_picture_that_is_no_multiple_of_16_is_refused_in_a_sentence(
        self, engine: Engine, width: int, height: int
    ) -> None:
        with pytest.raises(InvalidRequest, match="needs a multiple of 16"):
            engine.generate(request(width=width, height=height))
