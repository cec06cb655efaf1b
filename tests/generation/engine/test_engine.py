"""The engine beside the pipelines of diffusers on the same weights, and what it alone can do."""

from __future__ import annotations

import collections
import dataclasses
import importlib.metadata
import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generation.catalog.locate import locate, starter_folder
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import GenerationError, InvalidRequest
from generation.images.pillow import to_image, to_pixels
from generation.models.loading import load
from generation.models.stable_diffusion import StableDiffusion
from generation.models.tokens import tokenize
from generation.timing import Sizes
from generation.values.events import Progress
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import SEED_MAX, GenerationRequest, SchedulerName

from .. import lms
from ..examples import EDGE, a_request, gradient
from ..pipelines import Pipelines, pixels

BOTH: tuple[SchedulerName, ...] = ("lms", "ddim")
SETTINGS: tuple[dict[str, Any], ...] = (
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"prediction_type": "v_prediction", "timestep_spacing": "linspace"},
    {"beta_schedule": "linear", "set_alpha_to_one": True},
)
LONG = "a rabbit face, " * 30


@pytest.fixture(scope="module")
def sd15_engine(sd15: StableDiffusion) -> Engine:
    return Engine(sd15)


@pytest.fixture(scope="module")
def stock() -> Pipelines:
    return Pipelines.load(starter_folder(), stock=True)


@pytest.fixture(scope="module")
def source(engine: Engine) -> Pixels:
    """A picture that the starter model made, so that it is one that its decoder can make."""
    return engine.generate(a_request(seed=1, steps=10))[0].pixels


def scaled(picture: Pixels, width: int, height: int) -> Pixels:
    return to_pixels(to_image(picture), width, height)


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


def begin(engine: Engine, request: GenerationRequest) -> list[Denoising]:
    [images] = engine.begin([request])
    assert not isinstance(images, GenerationError)
    return images


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
    def test_no_pixel_is_further_than_a_level_from_it(
        self,
        engine: Engine,
        stock: Pipelines,
        scheduler: SchedulerName,
        changes: dict[str, Any],
    ) -> None:
        request = a_request(scheduler=scheduler, **changes)
        assert_alike(pixels(engine.generate(request)[0]), stock.picture(request))

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


@pytest.fixture(scope="module")
def several(source: Pixels) -> list[GenerationRequest]:
    return [
        a_request(steps=5, scheduler="lms", seed=100),
        a_request(steps=3, guidance_scale=1.0, prompt="red apple", count=2),
        a_request(steps=4, guidance_scale=7.5, negative_prompt="dark"),
        a_request(steps=6, source=source, strength=0.5, scheduler="lms", prompt="a cat"),
        a_request(steps=2, width=96, guidance_scale=1.0),
    ]


@pytest.fixture(scope="module")
def alone(engine: Engine, several: list[GenerationRequest]) -> list[list[GeneratedImage]]:
    return [engine.generate(request) for request in several]


class TestManyAtOnce:
    """The seam for the queue: images of several requests on their way at once."""

    def interleaved(
        self, engine: Engine, requests: list[GenerationRequest]
    ) -> list[list[GeneratedImage]]:
        """Start a request at each round, as they would arrive; finish all together."""
        arriving = iter(requests)
        running: list[list[Denoising]] = []
        while (request := next(arriving, None)) or not done(running):
            if request:
                running.append(begin(engine, request))
            engine.step([image for images in running for image in images])
        pictures = iter(engine.finish(list(itertools.chain(*running))))
        return [[found(next(pictures)) for _ in images] for images in running]

    def test_interleaved_requests_give_the_pictures_that_each_gives_alone(
        self,
        engine: Engine,
        starter: StableDiffusion,
        several: list[GenerationRequest],
        alone: list[list[GeneratedImage]],
    ) -> None:
        with unet_rows(starter) as rows:
            together = self.interleaved(engine, several)
        assert together == alone
        assert max(rows) >= 4

    def test_requests_that_begin_together_are_those_that_begin_one_by_one(
        self, engine: Engine, several: list[GenerationRequest], alone: list[list[GeneratedImage]]
    ) -> None:
        begun = engine.begin(several)
        images = [image for each in begun if isinstance(each, list) for image in each]
        while not done([images]):
            engine.step(images)
        made = engine.finish(images)
        assert made == list(itertools.chain(*alone))

    def test_requests_that_cannot_be_made_spoil_no_other(self, sd15: StableDiffusion) -> None:
        profile = dataclasses.replace(sd15.profile, size_multiple=16)
        engine = Engine(dataclasses.replace(sd15, profile=profile))
        first, refused, last = engine.begin([a_request(), a_request(width=72), a_request(seed=9)])
        assert isinstance(refused, InvalidRequest)
        assert isinstance(first, list)
        assert isinstance(last, list)

    def test_no_request_begins_and_no_image_is_finished_or_stepped(self, engine: Engine) -> None:
        assert engine.begin([]) == []
        assert engine.finish([]) == []
        engine.step([])

    def test_the_result_of_a_batch_is_the_same_every_time(self, engine: Engine) -> None:
        request = a_request(count=4, steps=2)
        assert engine.generate(request) == engine.generate(request)

    @pytest.mark.parametrize(
        ("changes", "most", "expected"),
        [
            ({"guidance_scale": 1.0}, 2, [1]),
            ({"guidance_scale": 4.0}, 2, [2]),
            ({"guidance_scale": 1.0, "negative_prompt": "dark"}, 2, [1]),
            ({"guidance_scale": 1.01}, 2, [2]),
            ({"guidance_scale": 4.0, "count": 3}, 2, [2, 2, 2]),
            ({"guidance_scale": 4.0, "count": 4}, 8, [8]),
            ({"guidance_scale": 1.0, "count": 4}, 8, [4]),
            ({"guidance_scale": 4.0, "count": 4}, 4, [4, 4]),
            # What is missing to the size of a call is filled up.
            ({"guidance_scale": 4.0, "count": 3}, 8, [8]),
        ],
    )
    def test_guidance_costs_a_second_row_in_the_unet(
        self, sd15: StableDiffusion, changes: dict[str, Any], most: int, expected: list[int]
    ) -> None:
        engine = Engine(sd15)
        images = begin(engine, a_request(steps=2, **changes))
        offer(engine, images[0], most)
        with unet_rows(sd15) as rows:
            engine.step(images)
            engine.step(images)
        assert rows == expected * 2

    def test_guided_and_unguided_images_share_a_call(self, sd15: StableDiffusion) -> None:
        engine = Engine(sd15)
        images = [
            *begin(engine, a_request(guidance_scale=1.0, steps=2)),
            *begin(engine, a_request(guidance_scale=7.5, steps=5, scheduler="lms")),
            *begin(engine, a_request(width=128)),
        ]
        offer(engine, images[0], 4)
        offer(engine, images[2], 4)
        with unet_rows(sd15) as rows:
            engine.step(images)
        assert sorted(rows) == [2, 4]
        assert [image.progress for image in images] == [
            Progress(1, 2),
            Progress(1, 5),
            Progress(1, 3),
        ]

    def test_an_image_that_is_done_is_left_alone(self, sd15: StableDiffusion) -> None:
        engine = Engine(sd15)
        [image] = begin(engine, a_request(steps=1))
        assert not image.done
        engine.step([image])
        assert image.done
        latents = image.latents
        with unet_rows(sd15) as rows:
            engine.step([image])
        assert rows == []
        assert image.latents is latents


class TestWhatIsRemembered:
    def test_a_text_is_encoded_once_for_all_who_ask(self, starter: StableDiffusion) -> None:
        engine = Engine(starter)
        seen: collections.Counter[tuple[int, ...]] = collections.Counter()

        def note(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen.update({tuple(row.tolist()) for row in inputs[0]})

        hook = starter.text_encoder.register_forward_pre_hook(note)
        try:
            for seed in range(3):
                begin(engine, a_request(seed=seed, count=2, negative_prompt="dark"))
            engine.begin([a_request(), a_request(prompt="dark"), a_request(prompt="a cat")])
        finally:
            hook.remove()
        # "rabbit face", "dark", nothing and "a cat".
        assert len(seen) == 4
        assert set(seen.values()) == {1}

    def test_an_unguided_request_has_only_its_prompt_encoded(
        self, starter: StableDiffusion
    ) -> None:
        engine = Engine(starter)
        calls: list[int] = []
        hook = starter.text_encoder.register_forward_pre_hook(
            lambda _, inputs: calls.append(len(inputs[0]))
        )
        try:
            begin(engine, a_request(guidance_scale=1.0, prompt="owl", negative_prompt="dark"))
        finally:
            hook.remove()
        assert sum(calls) == 1

    def test_what_was_embedded_in_between_does_not_matter(self, engine: Engine) -> None:
        before = engine.generate(a_request(negative_prompt="dark"))
        texts = [f"{number} cats" for number in range(600)]
        for start in range(0, 600, 60):
            engine.begin([a_request(prompt=text, steps=1) for text in texts[start : start + 60]])
        assert engine.generate(a_request(negative_prompt="dark")) == before


class TestPreviews:
    @pytest.mark.parametrize("scheduler", BOTH)
    def test_at_the_last_step_it_looks_like_the_picture(
        self, engine: Engine, starter: StableDiffusion, scheduler: SchedulerName
    ) -> None:
        request = a_request(
            scheduler=scheduler,
            steps=20,
            prompt="a cat",
            # With much more LMS, which goes on from the last four steps, goes beyond what they saw.
            guidance_scale=starter.profile.default_guidance_scale,
            width=3 * EDGE // 2,
            height=EDGE,
        )
        [image] = begin(engine, request)
        assert engine.preview(image) is None
        while not image.done:
            engine.step([image])
        seen = engine.preview(image)
        assert seen is not None
        assert (seen.width, seen.height) == (24, 16)
        [picture] = engine.finish([image])
        small = to_pixels(to_image(found(picture).pixels), seen.width, seen.height)
        likeness = np.corrcoef(values(seen), values(small))[0, 1]
        assert likeness > 0.9

    def test_it_clears_up_from_step_to_step(self, engine: Engine) -> None:
        request = a_request(steps=10, seed=3)
        [image] = begin(engine, request)
        looks = []
        while not image.done:
            engine.step([image])
            seen = engine.preview(image)
            assert seen is not None
            looks.append(values(seen))
        away = [float(np.abs(look - looks[-1]).mean()) for look in looks]
        assert away[0] > 10
        assert away[-2] < away[4] < away[0]

    def test_a_model_in_half_precision_has_previews_too(self, starter: StableDiffusion) -> None:
        half = Engine(load(starter.profile, device="cpu", dtype="bfloat16"))
        [image] = begin(half, a_request(steps=1))
        half.step([image])
        seen = half.preview(image)
        assert seen is not None
        assert values(seen).std() > 10

    def test_where_the_encoder_overflows_there_are_pictures_all_the_same(
        self, starter: StableDiffusion
    ) -> None:
        def overflow(_network: Any, _inputs: Any, encoded: torch.Tensor) -> torch.Tensor:
            return torch.full_like(encoded, torch.nan)

        hook = starter.vae.encoder.register_forward_hook(overflow)
        try:
            engine = Engine(starter, shared=False)
        finally:
            hook.remove()
        [image] = begin(engine, a_request(steps=1))
        engine.step([image])
        assert engine.preview(image) is not None
        assert found(engine.finish([image])[0]).pixels


def values(picture: Pixels) -> np.ndarray:
    return np.frombuffer(picture.rgb, np.uint8).astype(float)


def found(picture: GeneratedImage | None) -> GeneratedImage:
    assert picture is not None
    return picture


def offer(engine: Engine, image: Denoising, most: int) -> None:
    """Offer calls of 1, 2, 4, ... `most` rows for images like this, the larger the better."""
    image.networks.sizes(image.latents.shape, image.conditional.shape)
    key = (tuple(image.latents.shape[1:]), image.conditional.shape)
    ladder = [size for size in (1, 2, 4, 8) if size <= most]
    image.networks._sizes[key] = Sizes({size: 1 + size / 100 for size in ladder})


def done(running: list[list[Denoising]]) -> bool:
    return all(image.done for images in running for image in images)


@contextmanager
def unet_rows(parts: StableDiffusion) -> Iterator[list[int]]:
    """Collect the rows of each call of the UNet."""
    rows: list[int] = []

    def note(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(inputs[0]))

    hook = parts.unet.register_forward_pre_hook(note)
    try:
        yield rows
    finally:
        hook.remove()


class TestSameAgain:
    @pytest.mark.parametrize("scheduler", BOTH)
    def test_a_recipe_makes_its_picture_again(
        self, engine: Engine, source: Pixels, scheduler: SchedulerName
    ) -> None:
        asked = a_request(scheduler=scheduler, source=source, strength=0.7, count=2, seed=SEED_MAX)
        for image in engine.generate(asked):
            [again] = engine.generate(image.recipe.request(source))
            assert again.pixels == image.pixels
            assert dataclasses.replace(again, index=image.index) == image

    def test_other_seeds_and_prompts_make_other_pictures(self, engine: Engine) -> None:
        requests = [a_request(), a_request(seed=8), a_request(prompt="red apple")]
        hashes = {engine.generate(request)[0].pixels.sha256 for request in requests}
        assert len(hashes) == 3

    def test_the_recipe_says_all_that_the_picture_depends_on(
        self, engine: Engine, starter: StableDiffusion, source: Pixels
    ) -> None:
        request = a_request(
            scheduler="lms",
            source=source,
            strength=0.7,
            negative_prompt="dark",
            count=2,
            seed=SEED_MAX,
            guidance_scale=3.5,
        )
        made = engine.generate(request)[1]
        recipe = made.recipe
        assert recipe.request(source) == request.alone(1)
        assert (recipe.seed, recipe.strength, recipe.scheduler) == (0, 0.7, "lms")
        assert recipe.source_sha256 == source.sha256
        assert recipe.pixels_sha256 == made.pixels.sha256
        assert (recipe.model, recipe.model_sha256) == ("starter", starter.weights_sha256)
        assert (recipe.dtype, recipe.device, recipe.unread_prompt) == ("float32", "cpu", "")
        assert recipe.threads == torch.get_num_threads()
        names = ("imagine-bot", "torch", "diffusers", "transformers")
        assert recipe.versions == {name: importlib.metadata.version(name) for name in names}
        assert recipe.scheduler_settings["beta_end"] == 0.02
        assert recipe.scheduler_settings["timestep_spacing"] == "trailing"
        assert json.loads(recipe.to_json())["scheduler_settings"] == recipe.scheduler_settings

    def test_without_a_source_the_recipe_names_none(self, sd15_engine: Engine) -> None:
        recipe = sd15_engine.generate(a_request(steps=1))[0].recipe
        assert (recipe.source_sha256, recipe.strength) == (None, None)

    def test_the_recipe_says_what_of_the_prompt_was_not_read(self, engine: Engine) -> None:
        words = [f"{color} apple" for color in ("red", "green", "blue", "black", "white") * 4]
        recipe = engine.generate(a_request(prompt=", ".join(words), steps=1))[0].recipe
        assert recipe.unread_prompt
        assert recipe.prompt.endswith(recipe.unread_prompt)
        read = recipe.prompt.removesuffix(recipe.unread_prompt)
        [alone] = engine.generate(a_request(prompt=read, steps=1))
        assert alone.recipe.unread_prompt == ""
        assert alone.pixels.sha256 == recipe.pixels_sha256

    def test_the_random_state_of_the_process_is_neither_used_nor_changed(
        self, engine: Engine, source: Pixels
    ) -> None:
        request = a_request(source=source, strength=0.5, count=2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            before = torch.get_rng_state()
            first = engine.generate(request)
            assert torch.equal(torch.get_rng_state(), before)
            torch.manual_seed(2)
            assert engine.generate(request) == first

    @pytest.mark.parametrize("scheduler", BOTH)
    def test_half_precision_starts_from_the_same_noise(
        self, starter: StableDiffusion, engine: Engine, source: Pixels, scheduler: SchedulerName
    ) -> None:
        half = Engine(load(starter.profile, device="cpu", dtype="bfloat16"))
        # Guided by more, LMS makes much of every small difference with this model.
        plain = a_request(scheduler=scheduler, guidance_scale=2.0, steps=6)
        for request in (plain, dataclasses.replace(plain, source=source, strength=0.5)):
            [image] = begin(half, request)
            while not image.done:
                half.step([image])
                assert image.latents.dtype is torch.bfloat16
            rough, fine = found(half.finish([image])[0]), engine.generate(request)[0]
            assert rough.recipe.dtype == "bfloat16"
            away = np.abs(pixels(rough).astype(int) - pixels(fine).astype(int)).mean()
            [other] = engine.generate(dataclasses.replace(request, seed=request.seed + 1))
            of_other_noise = np.abs(pixels(other).astype(int) - pixels(fine).astype(int)).mean()
            assert of_other_noise > 15
            # Each kind of CPU sums bfloat16 in an order of its own, and LMS makes much of it.
            assert away < of_other_noise / 4


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "size"), [("width", {"width": 72}), ("height", {"height": 72})]
    )
    def test_a_size_that_the_model_cannot_make_is_named_with_what_it_needs(
        self, sd15: StableDiffusion, field: str, size: dict[str, int]
    ) -> None:
        profile = dataclasses.replace(sd15.profile, size_multiple=16)
        engine = Engine(dataclasses.replace(sd15, profile=profile))
        with pytest.raises(InvalidRequest) as caught:
            engine.generate(a_request(**size))
        assert caught.value.field == field
        assert str(caught.value) == (
            f"The {field} is 72; the model small-sd15 needs a multiple of 16."
        )
