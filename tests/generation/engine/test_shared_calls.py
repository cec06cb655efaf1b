"""Images that share the calls of the networks: each is the picture that it is alone."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from generation.engine import embeddings
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import InvalidRequest
from generation.models.stable_diffusion import StableDiffusion
from generation.timing import Sizes
from generation.values.events import Progress
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

from ..examples import a_request
from .pictures import begin, found


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

    def test_embeddings_that_take_too_much_memory_are_forgotten_the_oldest_first(
        self, starter: StableDiffusion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Engine(starter)
        [image] = begin(engine, a_request(guidance_scale=1.0, prompt="first"))
        monkeypatch.setattr(embeddings, "_CACHED_BYTES", 2 * image.conditional.nbytes)
        calls: list[int] = []
        hook = starter.text_encoder.register_forward_pre_hook(
            lambda _, inputs: calls.append(len(inputs[0]))
        )
        try:
            for prompt in ("second", "third", "second", "third", "first"):
                begin(engine, a_request(guidance_scale=1.0, prompt=prompt))
        finally:
            hook.remove()
        # The third text took the place of the first one, which is encoded again.
        assert sum(calls) == 3

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


def offer(engine: Engine, image: Denoising, most: int) -> None:
    """Offer calls of 1, 2, 4, ... `most` rows for images like this, the larger the better."""
    image.networks.sizes(image.latents.shape, image.conditional)
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
