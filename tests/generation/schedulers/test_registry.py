"""Each row of the registry: what it says of its scheduler is what the scheduler does."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from generation.images.png import parameters
from generation.schedulers.registry import REGISTRY
from generation.schedulers.sampler import Sampler
from generation.values.recipe import Recipe
from generation.values.request import SCHEDULERS, SchedulerName

from ..examples import a_recipe, a_request

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (1, 4, 2, 2)


def finished(sampler: Sampler) -> torch.Tensor:
    latents = torch.ones(SHAPE)
    while sampler.taken < sampler.steps:
        latents = sampler.step(torch.sin(sampler.scale(latents)), latents)
    return latents


def test_there_is_a_row_for_each_name_in_the_order_of_the_names() -> None:
    assert tuple(REGISTRY) == SCHEDULERS


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

    def test_its_settings_overrule_those_of_the_model(self, name: SchedulerName) -> None:
        settings = Sampler(name, {**CONFIG, "steps_offset": 0}, steps=3).settings
        assert REGISTRY[name].settings
        used = {key: value for key, value in REGISTRY[name].settings.items() if key in settings}
        assert used.items() <= settings.items()
        assert settings["steps_offset"] == REGISTRY[name].settings["steps_offset"]

    @pytest.mark.parametrize("strength", [None, 0.5])
    def test_it_goes_from_noise_and_from_an_image_to_a_picture(
        self, name: SchedulerName, strength: float | None
    ) -> None:
        latents = finished(Sampler(name, CONFIG, steps=8, strength=strength))
        assert latents.isfinite().all()

    def test_it_draws_noise_only_if_its_row_says_so(self, name: SchedulerName) -> None:
        before = torch.random.get_rng_state()
        first, second = (finished(Sampler(name, CONFIG, steps=8)) for _ in range(2))
        unchanged = torch.equal(torch.random.get_rng_state(), before)
        assert unchanged is not REGISTRY[name].draws_noise
        assert torch.equal(first, second) is not REGISTRY[name].draws_noise

    def test_it_remembers_as_many_steps_as_its_row_says(self, name: SchedulerName) -> None:
        """A change of the prediction of a step counts for so many later steps and no more."""
        history = max(1, REGISTRY[name].history)
        moves = []
        for changed in (0.0, 1.0):
            sampler, latents = Sampler(name, CONFIG, steps=20), torch.ones(SHAPE)
            for step in range(12):
                sampler.scale(latents)
                moved = sampler.step(torch.full(SHAPE, changed if step == 4 else 0.5), latents)
                # Always from the same latents, so that only the memory of a scheduler counts.
                moves.append(moved)
        first, second = moves[:12], moves[12:]
        differ = [not torch.equal(a, b) for a, b in zip(first, second, strict=True)]
        assert [step for step, other in enumerate(differ) if other] == list(range(4, 4 + history))


def test_the_registry_loads_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys, generation.schedulers.registry;"
        "print([name for name in ('torch', 'diffusers', 'scipy') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "[]"
