"""What the engine alone can do: previews, the same picture again, and refusals."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from typing import Any

import numpy as np
import pytest
import torch

from generation.engine.engine import Engine
from generation.errors import InvalidRequest
from generation.images.pillow import to_image, to_pixels
from generation.models.loading import load
from generation.models.stable_diffusion import StableDiffusion
from generation.values.pixels import Pixels
from generation.values.request import SEED_MAX, SchedulerName

from ..examples import EDGE, a_request, gradient
from ..pipelines import pixels
from .pictures import BOTH, begin, found


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
    def test_references_for_a_model_that_reads_none_are_refused(self, engine: Engine) -> None:
        with pytest.raises(InvalidRequest, match="starter cannot edit by instruction") as caught:
            engine.generate(a_request(references=(gradient(),)))
        assert caught.value.field == "references"

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


def values(picture: Pixels) -> np.ndarray:
    return np.frombuffer(picture.rgb, np.uint8).astype(float)
