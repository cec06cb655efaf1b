"""What the engine makes of memory that runs out."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import pytest
import torch

from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import OutOfMemory
from generation.models.stable_diffusion import StableDiffusion
from generation.timing import Sizes

from ..examples import EDGE, a_request, gradient, latent_side
from .faults import FULL, begin, decoder_without_room, run, small_calls, unet_without_room


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


def offer(engine: Engine, image: Denoising, *ladder: int) -> None:
    """Offer calls of these sizes for images like this, the larger the better."""
    image.networks.sizes(image.latents.shape, image.conditional)
    key = (tuple(image.latents.shape[1:]), image.conditional.shape)
    image.networks._sizes[key] = Sizes({size: 1 + size / 100 for size in ladder})


MIX = (
    a_request(count=3, steps=3),
    a_request(seed=50, steps=2, guidance_scale=1.0, count=2),
    a_request(seed=60, steps=4, scheduler="lms"),
)


class TestUNetMemory:
    def test_calls_are_made_smaller_and_every_picture_still_comes_out(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        expected = list(itertools.chain(*(engine.generate(request) for request in MIX)))
        images = begin(engine, *MIX)
        offer(engine, images[0], 2, 4, 8, 16)
        with unet_without_room(parts, lambda latents: len(latents) > 2) as refused:
            assert run(engine, images) == expected
        # What did not fit is not tried again at each step.
        assert refused == [16, 8, 4, 4]

    def test_one_that_does_not_fit_alone_fails_and_the_others_go_on(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        small, large = a_request(), a_request(width=128, seed=3)
        expected = engine.generate(small)
        engine.generate(large)
        images = begin(engine, small, large)
        side = latent_side(small.width, parts)
        with unet_without_room(parts, lambda latents: latents.shape[3] > side):
            made = run(engine, images)
        assert made == [*expected, None]
        assert isinstance(images[1].failure, OutOfMemory)
        assert images[1].failure.__traceback__ is None
        assert str(images[1].failure) == (
            "There is not enough memory for this picture; ask for a smaller size."
        )

    def test_a_shape_that_is_new_and_does_not_fit_fails_and_the_others_go_on(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        large = 2 * EDGE
        images = begin(engine, a_request(), a_request(width=large, count=2), a_request(width=96))
        side = latent_side(large, parts)
        with unet_without_room(parts, lambda latents: latents.shape[3] == side):
            made = run(engine, images)
        assert [picture is None for picture in made] == [False, True, True, False]
        assert all(isinstance(image.failure, OutOfMemory) for image in images[1:3])

    def test_who_asks_for_it_alone_is_told(self, engine: Engine, parts: StableDiffusion) -> None:
        with (
            unet_without_room(parts, lambda latents: True),
            pytest.raises(OutOfMemory),
        ):
            engine.generate(a_request())
        assert len(engine.generate(a_request())) == 1

    def test_calls_that_were_planned_before_the_batch_shrank_still_count(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        request = a_request(count=4, steps=3)
        expected = engine.generate(request)
        images = begin(engine, request)
        offer(engine, images[0], 2, 4)
        first = iter([True])
        with unet_without_room(parts, lambda latents: len(latents) > 2 and next(first, False)):
            assert run(engine, images) == expected

    def test_a_source_that_cannot_be_encoded_for_memory_is_one_jobs_failure(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        def run_out(*_: Any) -> None:
            raise RuntimeError(FULL)

        hook = parts.vae.encoder.register_forward_pre_hook(run_out)
        try:
            plain, similar = engine.begin([a_request(), a_request(source=gradient(), strength=0.5)])
        finally:
            hook.remove()
        assert isinstance(similar, OutOfMemory)
        assert isinstance(plain, list)

    def test_an_error_that_is_not_about_memory_is_not_hidden(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        images = begin(engine, a_request())
        engine.step(images)

        def break_down(*_: Any) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        hook = parts.unet.mid_block.register_forward_pre_hook(break_down)
        try:
            with pytest.raises(RuntimeError, match="illegal memory access"):
                engine.step(images)
        finally:
            hook.remove()


class TestDecoderMemory:
    SIZE: ClassVar = {"width": 3 * EDGE // 2, "height": 3 * EDGE // 2}
    REQUEST = a_request(count=3, steps=1, **SIZE)

    def test_pictures_are_decoded_one_by_one(self, engine: Engine, parts: StableDiffusion) -> None:
        expected = engine.generate(self.REQUEST)
        images = begin(engine, self.REQUEST)
        autoencoder = images[0].networks.autoencoder
        autoencoder._sizes[tuple(images[0].latents.shape[1:])] = Sizes({1: 1.0, 2: 1.1, 4: 1.2})
        with decoder_without_room(parts, lambda latents: len(latents) > 1) as calls:
            assert run(engine, images) == expected
        assert [shape[0] for shape in calls] == [4, 1, 1, 1]
        assert all(image.decoder_tile is None for image in images)

    def test_then_in_tiles_which_the_recipe_says(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        whole = engine.generate(self.REQUEST)
        images = begin(engine, self.REQUEST)
        with decoder_without_room(parts, lambda latents: latents.shape[3] > 16) as calls:
            made = run(engine, images)
        assert min(shape[3] for shape in calls) <= 16
        for tiled, plain in zip(made, whole, strict=True):
            assert tiled is not None
            assert tiled.recipe.decoder_tile == 3 * EDGE // 4
            assert tiled.pixels != plain.pixels
        again = engine.generate(self.REQUEST, decoder_tile=3 * EDGE // 4)
        assert again == made
        # The next picture is decoded whole again.
        assert engine.generate(self.REQUEST) == whole

    def test_tiles_get_smaller_until_they_fit(self, engine: Engine, parts: StableDiffusion) -> None:
        images = begin(engine, a_request(steps=1, **self.SIZE))
        with decoder_without_room(parts, lambda latents: latents.shape[3] > 8):
            [made] = run(engine, images)
        assert made is not None
        assert made.recipe.decoder_tile == EDGE // 4

    def test_what_does_not_fit_in_the_smallest_tile_fails_alone(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        fits, does_not = a_request(steps=1), a_request(steps=1, **self.SIZE)
        expected = engine.generate(fits)
        images = begin(engine, does_not, fits)
        room = iter([True] * 20)

        def full(latents: torch.Tensor) -> bool:
            return bool(images[0].failure is None) and next(room, False)

        with decoder_without_room(parts, full):
            made = run(engine, images)
        assert made == [None, *expected]
        assert isinstance(images[0].failure, OutOfMemory)

    def test_anyone_who_asks_for_it_alone_is_told(
        self, engine: Engine, parts: StableDiffusion
    ) -> None:
        with decoder_without_room(parts, lambda _: True), pytest.raises(OutOfMemory):
            engine.generate(a_request(steps=1))
        assert len(engine.generate(a_request(steps=1))) == 1


def test_a_picture_is_the_same_from_an_engine_that_ran_out_of_memory_before(
    engine: Engine, plain: Engine, parts: StableDiffusion
) -> None:
    expected = plain.generate(a_request(count=4))
    with unet_without_room(parts, lambda latents: len(latents) > 2):
        engine.generate(a_request(count=4))
    made = engine.generate(a_request(count=4))
    assert made == expected


def test_where_texts_do_not_fit_together_only_the_request_fails_that_does_not_alone(
    engine: Engine, parts: StableDiffusion
) -> None:
    token = parts.tokenizer("castle").input_ids[1]
    calls: list[int] = []

    def run_out(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append(len(inputs[0]))
        if (inputs[0] == token).any():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = parts.text_encoder.register_forward_pre_hook(run_out)
    try:
        requests = [a_request(prompt=text, steps=1) for text in ("owl", "castle", "pizza")]
        owl, castle, pizza = engine.begin(requests)
    finally:
        hook.remove()
    assert isinstance(castle, OutOfMemory)
    assert isinstance(owl, list)
    assert isinstance(pizza, list)
    assert len(calls) >= 3
    assert all(image is not None for image in run(engine, [*owl, *pizza]))
