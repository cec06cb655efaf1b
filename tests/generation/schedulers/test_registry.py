"""Each row of the registry: what it says of its scheduler is what the scheduler does."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch

from generation.images.png import parameters
from generation.schedulers import registry
from generation.schedulers.registry import REGISTRY, Kind
from generation.schedulers.sampler import Sampler
from generation.values.recipe import Recipe
from generation.values.request import SCHEDULERS, SPACINGS, SchedulerName

from ..examples import a_recipe, a_request

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": False,
}
CONFIGS = {"diffusion": CONFIG, "flow": FLOW}
SHAPE = (1, 4, 2, 2)
METHODS = [(name, kind) for name, row in REGISTRY.items() for kind in row.methods]


def a_sampler(
    name: SchedulerName, kind: Kind = "diffusion", *, steps: int = 8, **options: Any
) -> Sampler:
    draws = torch.Generator().manual_seed(3)
    return Sampler(name, CONFIGS[kind], steps=steps, draws=draws, **options)


def finished(sampler: Sampler) -> torch.Tensor:
    latents = torch.ones(SHAPE)
    while not sampler.done:
        latents = sampler.step(torch.sin(sampler.scale(latents)), latents)
    return latents


def test_there_is_a_row_for_each_name_in_the_order_of_the_names() -> None:
    assert tuple(REGISTRY) == SCHEDULERS
    assert tuple(registry.SPACINGS) == SPACINGS


def test_no_two_rows_have_one_name_for_people_or_for_other_programs() -> None:
    assert len({row.label for row in REGISTRY.values()}) == len(REGISTRY)
    assert len({row.a1111 for row in REGISTRY.values()}) == len(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
class TestRow:
    def test_a_request_and_its_recipe_may_name_it(self, name: SchedulerName) -> None:
        assert a_request(scheduler=name).scheduler == name
        recipe = Recipe.from_json(a_recipe(scheduler=name).to_json())
        assert recipe.request(None).scheduler == name

    def test_its_name_for_other_programs_is_in_the_png(self, name: SchedulerName) -> None:
        assert f"Sampler: {REGISTRY[name].a1111}, " in parameters(a_recipe(scheduler=name))

    def test_only_what_draws_noise_needs_a_generator(self, name: SchedulerName) -> None:
        needs = pytest.raises(ValueError, match="needs a generator")
        with needs if REGISTRY[name].draws_noise else contextlib.nullcontext():
            Sampler(name, CONFIG, steps=8)

    @pytest.mark.parametrize("steps", [1, 2, 5, 50])
    def test_a_step_takes_as_many_calls_as_its_row_says_and_the_last_one(
        self, name: SchedulerName, steps: int
    ) -> None:
        sampler, taken = a_sampler(name, steps=steps), []
        latents = torch.ones(SHAPE)
        while not sampler.done:
            latents = sampler.step(torch.sin(sampler.scale(latents)), latents)
            taken.append(sampler.taken)
        calls = REGISTRY[name].calls
        assert len(taken) == calls * (steps - 1) + 1
        assert taken == sorted(taken)
        assert set(range(1, steps + 1)) <= set(taken)


@pytest.mark.parametrize(("name", "kind"), METHODS)
class TestMethod:
    def test_its_settings_overrule_those_of_the_model(
        self, name: SchedulerName, kind: Kind
    ) -> None:
        own = REGISTRY[name].methods[kind].settings
        changed = dict.fromkeys(own, "other")
        draws = torch.Generator()
        settings = Sampler(name, {**CONFIGS[kind], **changed}, steps=3, draws=draws).settings
        # Keys that the class does not know are ignored.
        used = {key: value for key, value in own.items() if settings.get(key) != "other"}
        assert used
        assert used.items() <= settings.items()

    @pytest.mark.parametrize("strength", [None, 0.5, 0.05])
    def test_it_goes_from_noise_and_from_an_image_to_a_picture(
        self, name: SchedulerName, kind: Kind, strength: float | None
    ) -> None:
        for spacing in (None, *REGISTRY[name].methods[kind].spacings):
            sampler = a_sampler(name, kind, strength=strength, spacing=spacing)
            assert finished(sampler).isfinite().all()
            assert sampler.predicted is not None
            assert sampler.predicted.isfinite().all()

    def test_it_draws_noise_only_if_its_row_says_so_and_from_the_images_generator(
        self, name: SchedulerName, kind: Kind
    ) -> None:
        everyones = torch.random.get_rng_state()
        draws = torch.Generator().manual_seed(3)
        before = draws.get_state()
        finished(Sampler(name, CONFIGS[kind], steps=8, draws=draws))
        drew = not torch.equal(draws.get_state(), before)
        assert drew is REGISTRY[name].draws_noise
        assert torch.equal(torch.random.get_rng_state(), everyones)

    def test_each_spacing_is_another_way_to_the_picture(
        self, name: SchedulerName, kind: Kind
    ) -> None:
        ways = [None, *REGISTRY[name].methods[kind].spacings]
        made = [finished(a_sampler(name, kind, spacing=spacing)) for spacing in ways]
        for one, other in itertools.combinations(made, 2):
            assert not torch.allclose(one, other)


def test_each_scheduler_is_another_way_to_the_picture() -> None:
    made = [finished(a_sampler(name, kind)) for name, kind in METHODS]
    for one, other in itertools.combinations(made, 2):
        assert not torch.allclose(one, other)


def test_lms_remembers_as_many_steps_as_its_row_says() -> None:
    """A change of the prediction of a step counts for so many later steps and no more."""
    moves: list[list[torch.Tensor]] = []
    for changed in (0.0, 1.0):
        sampler, latents = a_sampler("lms", steps=20), torch.ones(SHAPE)
        moves.append([])
        for step in range(12):
            sampler.scale(latents)
            prediction = torch.full(SHAPE, changed if step == 4 else 0.5)
            # Always from the same latents, so that only the memory of a scheduler counts.
            moves[-1].append(sampler.step(prediction, latents))
    differ = [not torch.equal(a, b) for a, b in zip(*moves, strict=True)]
    assert [step for step, other in enumerate(differ) if other] == [4, 5, 6, 7]


def test_the_registry_loads_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys, generation.schedulers.names, generation.schedulers.fitting;"
        "print([name for name in ('torch', 'diffusers', 'scipy') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "[]"
