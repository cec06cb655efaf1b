"""However requests are mixed on one engine, each picture is the one that it gives alone.

`MIXES=100 pytest tests/generation/engine/test_mixes.py` tries so many mixes on each model.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generation.engine.calibration import Bounds
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.models.stable_diffusion import StableDiffusion
from generation.schedulers.registry import REGISTRY
from generation.values.recipe import GeneratedImage
from generation.values.request import SEED_MAX, GenerationRequest

from ..examples import a_request, gradient

MIXES = int(os.environ.get("MIXES", "5"))
SIZES = ((64, 64), (64, 64), (96, 64), (64, 96), (40, 104))
SCHEDULES = [
    (name, spacing)
    for name, row in REGISTRY.items()
    for spacing in (None, *row.methods["diffusion"].spacings)
]


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    width, height = draw(st.sampled_from(SIZES))
    source = {}
    if draw(st.integers(0, 3)) == 0:
        strength = draw(st.sampled_from([0.05, 0.5, 1.0]))
        source = {"source": gradient(width, height), "strength": strength}
    scheduler, spacing = draw(st.sampled_from(SCHEDULES))
    return a_request(
        prompt=draw(st.sampled_from(["a cat", "red apple", "a cat, " * 60, "Ёж 🦔"])),
        negative_prompt=draw(st.sampled_from(["", "dark", "a cat"])),
        steps=draw(st.integers(1, 3)),
        guidance_scale=draw(st.sampled_from([1.0, 1.01, 4.0, 7.5, 20.0])),
        seed=draw(st.sampled_from([0, 1, 2, SEED_MAX])),
        scheduler=scheduler,
        spacing=spacing,
        width=width,
        height=height,
        count=draw(st.sampled_from([1, 1, 2, 3])),
        **source,
    )


@dataclass(frozen=True)
class Arrival:
    """A request and the steps that are taken between the one before and it."""

    request: GenerationRequest
    after: int


arrivals = st.lists(st.builds(Arrival, requests(), st.integers(0, 3)), min_size=2, max_size=5)


@dataclass
class Bench:
    """One engine for mixes, and one on which each request is alone, once."""

    mixed: Engine
    single: Engine
    known: dict[GenerationRequest, list[GeneratedImage]] = field(default_factory=dict)

    def alone(self, request: GenerationRequest) -> list[GeneratedImage]:
        if request not in self.known:
            self.known[request] = self.single.generate(request)
        return self.known[request]

    def together(self, plan: Sequence[Arrival], chance: random.Random) -> list[GeneratedImage]:
        """Return the pictures of all requests in their order, made in one engine at a time.

        Between two steps some leave and some join; not all take part in each step, and those
        that do are in any order.
        """
        coming = list(enumerate(plan))
        running: dict[Denoising, tuple[int, int]] = {}
        made: dict[tuple[int, int], GeneratedImage] = {}
        wait = 0
        while coming or running:
            if coming and (wait >= coming[0][1].after or not running):
                number, arrival = coming.pop(0)
                [images] = self.mixed.begin([arrival.request])
                assert isinstance(images, list)
                running |= {image: (number, image.index) for image in images}
                wait = 0
                continue
            wait += 1
            images = [image for image in running if chance.random() < 0.8]
            chance.shuffle(images)
            self.mixed.step(images)
            done = [image for image in running if image.done and chance.random() < 0.7]
            for image, picture in zip(done, self.mixed.finish(done), strict=True):
                assert picture is not None
                made[running.pop(image)] = picture
        return [made[key] for key in sorted(made)]


def a_bench(parts: StableDiffusion) -> Bench:
    bench = Bench(Engine(parts), Engine(parts))
    for engine in (bench.mixed, bench.single):
        # To measure larger calls takes longer than to make these pictures.
        engine._networks._bounds = Bounds(ladder=(1, 2, 4, 8))
    return bench


@pytest.fixture(scope="module")
def starter_bench(starter: StableDiffusion) -> Bench:
    return a_bench(starter)


@pytest.fixture(scope="module")
def sd15_bench(sd15: StableDiffusion) -> Bench:
    return a_bench(sd15)


def assert_the_same_as_alone(bench: Bench, plan: Sequence[Arrival], chance: random.Random) -> None:
    expected = [bench.alone(arrival.request) for arrival in plan]
    assert bench.together(plan, chance) == list(itertools.chain(*expected))


mixes = settings(
    max_examples=MIXES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@mixes
@given(arrivals, st.randoms(use_true_random=False))
def test_the_starters_pictures_do_not_depend_on_what_is_made_beside_them(
    starter_bench: Bench, plan: list[Arrival], chance: random.Random
) -> None:
    assert_the_same_as_alone(starter_bench, plan, chance)


@mixes
@given(arrivals, st.randoms(use_true_random=False))
def test_pictures_of_a_model_like_stable_diffusion_do_not_either(
    sd15_bench: Bench, plan: list[Arrival], chance: random.Random
) -> None:
    assert_the_same_as_alone(sd15_bench, plan, chance)


@contextmanager
def threads(count: int) -> Iterator[None]:
    kept = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(kept)


def test_two_threads_make_the_pictures_of_one(starter_bench: Bench) -> None:
    plan = [
        Arrival(a_request(steps=2, count=2), 0),
        Arrival(a_request(steps=3, scheduler="lms", guidance_scale=1.0), 1),
        Arrival(a_request(steps=2, source=gradient(), strength=0.5), 0),
    ]
    expected = [picture for each in plan for picture in starter_bench.alone(each.request)]
    with threads(2):
        made = starter_bench.together(plan, random.Random(1))
    assert [picture.pixels for picture in made] == [picture.pixels for picture in expected]
    assert {picture.recipe.threads for picture in made} == {2}
