"""What the engine makes of numbers that overflow."""

from __future__ import annotations

import pytest
import torch

from generation.engine.engine import Engine
from generation.errors import NotFinite
from generation.models.loading import load
from generation.models.stable_diffusion import StableDiffusion

from ..examples import a_request, gradient
from .faults import begin, run, small_calls, spoiled


@pytest.fixture
def parts(starter: StableDiffusion) -> StableDiffusion:
    return starter


@pytest.fixture(scope="module")
def plain(starter: StableDiffusion) -> Engine:
    """An engine to which nothing happens."""
    return small_calls(Engine(starter))


@pytest.fixture
def engine(parts: StableDiffusion) -> Engine:
    """An engine of this test alone: what it has learnt of the memory stays with it."""
    return small_calls(Engine(parts))


@pytest.fixture(scope="module")
def half(starter: StableDiffusion) -> StableDiffusion:
    return load(starter.profile, device="cpu", dtype="bfloat16")


# A CPU without units for it takes seconds for a step in bfloat16, so these take few.
class TestOverflow:
    @pytest.fixture
    def cautious(self, half: StableDiffusion, starter: StableDiffusion) -> Engine:
        return small_calls(Engine(half, load_in_float32=lambda: starter))

    def test_latents_that_are_no_numbers_are_made_again_in_float32(
        self, half: StableDiffusion, starter: StableDiffusion, plain: Engine
    ) -> None:
        request = a_request(count=2, steps=2)
        signs: list[str] = []
        cautious = small_calls(Engine(half, load_in_float32=lambda: starter, on_sign=signs.append))
        with spoiled(half.unet.conv_out, lambda: True):
            made = cautious.generate(request)
        assert made == plain.generate(request)
        assert {image.recipe.dtype for image in made} == {"float32"}
        # Whoever watches the engine waits for a model to be loaded, then for calls again.
        assert signs.count("loading") == 1
        assert signs[signs.index("loading") + 1] == "alive"

    def test_a_picture_that_is_none_is_made_again_in_float32(
        self, cautious: Engine, half: StableDiffusion, plain: Engine
    ) -> None:
        request = a_request(source=gradient(), strength=0.6, steps=3)
        with spoiled(half.vae.decoder, lambda: True):
            made = cautious.generate(request)
        assert made == plain.generate(request)

    def test_only_the_one_that_overflowed_starts_again(
        self, cautious: Engine, plain: Engine
    ) -> None:
        sound, hot = a_request(steps=2), a_request(seed=8, steps=2)
        images = begin(cautious, sound, hot)
        while not all(image.done for image in images):
            cautious.step(images)
        images[1].latents = torch.full_like(images[1].latents, torch.nan)
        first, none = cautious.finish(images)
        assert first is not None
        assert first.recipe.dtype == "bfloat16"
        assert none is None
        assert images[1].progress.step == 0
        assert images[1].failure is None
        [second] = run(cautious, [images[1]])
        assert [second] == plain.generate(hot)

    def test_images_of_both_precisions_share_a_step(self, cautious: Engine) -> None:
        hot = begin(cautious, a_request(seed=8, steps=2))
        while not hot[0].done:
            cautious.step(hot)
        hot[0].latents = hot[0].latents * torch.inf
        assert cautious.finish(hot) == [None]
        fresh = begin(cautious, a_request(steps=2))
        made = run(cautious, [*hot, *fresh])
        assert [image.recipe.dtype for image in made if image] == ["float32", "bfloat16"]
        assert made[1:] == cautious.generate(a_request(steps=2))

    def test_in_float32_too_it_is_reported(
        self, cautious: Engine, half: StableDiffusion, starter: StableDiffusion
    ) -> None:
        with (
            spoiled(half.unet.conv_out, lambda: True),
            spoiled(starter.unet.conv_out, lambda: True),
            pytest.raises(NotFinite, match="overflowed"),
        ):
            cautious.generate(a_request())

    def test_an_engine_in_float32_has_nothing_to_turn_to(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        engine.generate(a_request())
        for network in (parts.unet.conv_out, parts.vae.decoder):
            with spoiled(network, lambda: True), pytest.raises(NotFinite):
                engine.generate(a_request())
        assert len(engine.generate(a_request())) == 1

    def test_without_float32_weights_it_is_reported_at_once(self, half: StableDiffusion) -> None:
        engine = Engine(half)
        with spoiled(half.vae.decoder, lambda: True), pytest.raises(NotFinite):
            engine.generate(a_request(steps=1))

    def test_one_of_several_overflows_and_the_others_are_finished(self, engine: Engine) -> None:
        sound = a_request(count=2)
        expected = engine.generate(sound)
        images = begin(engine, sound, a_request(seed=99))
        while not all(image.done for image in images):
            engine.step(images)
        images[2].latents = images[2].latents * torch.nan
        assert engine.finish(images) == [*expected, None]
        assert isinstance(images[2].failure, NotFinite)
