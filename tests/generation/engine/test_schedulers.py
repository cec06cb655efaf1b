"""Each scheduler with each spacing: diffusers' picture, whatever is made beside it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from generation.engine.calibration import Bounds
from generation.engine.engine import Engine
from generation.errors import InvalidRequest
from generation.models.family import Model
from generation.models.flux2_klein import Flux2Klein
from generation.models.stable_diffusion import StableDiffusion
from generation.models.z_image import ZImage
from generation.schedulers.registry import REGISTRY
from generation.values.events import Progress
from generation.values.recipe import Recipe
from generation.values.request import GenerationRequest, SchedulerName, Spacing

from ..examples import a_request, gradient
from ..flux2_klein import Flux2KleinPipelines
from ..pipelines import Pipelines, pixels

CELLS: list[tuple[SchedulerName, Spacing | None]] = [
    (name, spacing)
    for name, row in REGISTRY.items()
    for spacing in (None, *row.methods["diffusion"].spacings)
]
# Each scheduler once, with a spacing where it has one; `make test-all` adds the others.
SOME = [
    (name, spacings[number % len(spacings)])
    for number, (name, cells) in enumerate(itertools.groupby(CELLS, key=lambda cell: cell[0]))
    for spacings in [[spacing for _, spacing in cells]]
]
OTHERS = [pytest.param(*cell, marks=pytest.mark.rare) for cell in CELLS if cell not in SOME]
# Where the picture differs from diffusers' on purpose, and why.
ON_PURPOSE = {
    "lms": "diffusers takes the order from the step of the whole schedule, so from a middle step "
    "it uses derivatives that were never computed",
}


@pytest.mark.parametrize(("scheduler", "spacing"), [*SOME, *OTHERS])
class TestPipeline:
    def test_from_noise_it_is_the_pipelines_picture_to_the_last_bit(
        self,
        sd15_engine: Engine,
        sd15_pipelines: Pipelines,
        scheduler: SchedulerName,
        spacing: Spacing | None,
    ) -> None:
        request = a_request(scheduler=scheduler, spacing=spacing, steps=4, negative_prompt="dark")
        made = pixels(sd15_engine.generate(request)[0])
        assert made.std() > 10
        np.testing.assert_array_equal(made, sd15_pipelines.picture(request))

    def test_from_an_image_it_is_the_pipelines_picture_to_the_last_bit(
        self,
        sd15_engine: Engine,
        sd15_pipelines: Pipelines,
        scheduler: SchedulerName,
        spacing: Spacing | None,
    ) -> None:
        strength = 1.0 if scheduler in ON_PURPOSE else 0.6
        request = a_request(
            scheduler=scheduler, spacing=spacing, steps=5, source=gradient(), strength=strength
        )
        made = pixels(sd15_engine.generate(request)[0])
        np.testing.assert_array_equal(made, sd15_pipelines.picture(request))


FLOW: list[tuple[SchedulerName, Spacing | None]] = [
    ("euler", "karras"),
    ("euler", "exponential"),
    ("euler", "beta"),
    ("heun", None),
    ("heun", "beta"),
]


@pytest.mark.parametrize(("scheduler", "spacing"), FLOW)
@pytest.mark.rare
def test_klein_whose_schedule_depends_on_the_size_makes_the_pipelines_picture(
    klein: Flux2Klein,
    klein_pipelines: Flux2KleinPipelines,
    scheduler: SchedulerName,
    spacing: Spacing | None,
) -> None:
    request = a_request(
        prompt="a cat", scheduler=scheduler, spacing=spacing, steps=4, guidance_scale=1.0
    )
    made = pixels(Engine(klein, shared=False).generate(request)[0])
    assert made.std() > 10
    np.testing.assert_array_equal(made, klein_pipelines.picture(request))


@pytest.mark.parametrize("scheduler", REGISTRY)
def test_a_model_that_predicts_v_gets_the_pipelines_picture(
    sd15: StableDiffusion, sd15_pipelines: Pipelines, scheduler: SchedulerName
) -> None:
    settings: dict[str, Any] = {"prediction_type": "v_prediction"}
    if REGISTRY[scheduler].methods["diffusion"].zero_snr:
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config = {**sd15.scheduler_config, **settings}
    profile = dataclasses.replace(sd15.profile, scheduler_config=config)
    engine = Engine(dataclasses.replace(sd15, scheduler_config=config, profile=profile))
    request = a_request(scheduler=scheduler, steps=3)
    made = pixels(engine.generate(request)[0])
    np.testing.assert_array_equal(made, sd15_pipelines.picture(request, **settings))


def assert_the_same_as_alone(model: Model, requests: list[GenerationRequest]) -> None:
    engine, single = Engine(model), Engine(model, shared=False)
    # To measure larger calls takes longer than to make these pictures.
    engine._networks._bounds = Bounds(ladder=(1, 2, 4, 8))
    alone = [single.generate(request)[0] for request in requests]
    running = [images for images in engine.begin(requests) if isinstance(images, list)]
    images = [image for (image,) in running]
    while not all(image.done for image in images):
        engine.step(images)
    assert engine.finish(images) == alone


def mixed(cells: list[tuple[SchedulerName, Spacing | None]]) -> list[GenerationRequest]:
    """Return a request for each cell, each third one from an image."""
    sources: tuple[dict[str, Any], ...] = ({}, {"source": gradient(), "strength": 0.7}, {})
    return [
        a_request(scheduler=name, spacing=spacing, seed=number, steps=3 + number % 3, **source)
        for number, ((name, spacing), source) in enumerate(zip(cells, itertools.cycle(sources)))
    ]


def test_pictures_do_not_depend_on_what_other_schedulers_make_beside_them(
    sd15: StableDiffusion,
) -> None:
    assert_the_same_as_alone(sd15, mixed(SOME))


def test_nor_do_those_of_flow_matching(z_image: ZImage) -> None:
    assert_the_same_as_alone(z_image, mixed([("euler", None), *FLOW]))


@pytest.mark.parametrize(
    "scheduler",
    [name for name, row in REGISTRY.items() if row.draws_noise or name in ("dpmpp_2m", "unipc")],
)
def test_an_image_that_is_begun_again_is_the_same(
    sd15_engine: Engine, scheduler: SchedulerName
) -> None:
    """What draws noise in its steps draws it again from the start."""
    request = a_request(scheduler=scheduler, steps=3)
    [expected] = sd15_engine.generate(request)
    [images] = sd15_engine.begin([request])
    assert isinstance(images, list)
    [image] = images
    sd15_engine.step([image])
    sd15_engine.step([image])
    image.restart(image.networks)
    while not image.done:
        sd15_engine.step([image])
    assert sd15_engine.finish([image]) == [expected]


@pytest.mark.parametrize(("scheduler", "calls"), [("heun", 9), ("dpmpp_sde", 9), ("euler", 5)])
def test_the_steps_of_a_picture_are_the_persons_steps_whatever_they_cost(
    sd15: StableDiffusion, scheduler: SchedulerName, calls: int
) -> None:
    engine, counted = Engine(sd15, shared=False), []
    hook = sd15.unet.register_forward_pre_hook(lambda *_: counted.append(1))
    told: list[Progress] = []
    try:
        [made] = engine.generate(a_request(scheduler=scheduler, steps=5), told.append)
    finally:
        hook.remove()
    assert len(counted) == calls
    assert told[-1] == Progress(5, 5)
    assert {progress.step for progress in told} >= {1, 2, 3, 4, 5}
    assert made.recipe.steps == 5


@pytest.mark.parametrize(("scheduler", "spacing"), SOME[::3])
def test_a_recipe_makes_the_picture_again(
    sd15_engine: Engine, scheduler: SchedulerName, spacing: Spacing | None
) -> None:
    [made] = sd15_engine.generate(a_request(scheduler=scheduler, spacing=spacing, steps=2))
    assert made.recipe.spacing == spacing
    recipe = Recipe.from_json(made.recipe.to_json())
    assert sd15_engine.generate(recipe.request(None)) == [made]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"scheduler": "lcm", "spacing": "karras"},
            "The scheduler lcm has no spacing karras; leave it out.",
        ),
        (
            {"scheduler": "ddim", "spacing": "beta"},
            "The scheduler ddim has no spacing beta; choose trailing, or leave it out.",
        ),
        (
            {"scheduler": "tcd", "steps": 51},
            "The scheduler tcd takes at most 50 steps; you asked for 51.",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(
    sd15_engine: Engine, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sd15_engine.generate(a_request(**changes))
    assert str(refused.value) == sentence
