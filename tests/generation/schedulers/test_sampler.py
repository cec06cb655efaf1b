from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st

from generation.schedulers.registry import REGISTRY
from generation.schedulers.sampler import Sampler, start_step
from generation.values.request import STEPS_MAX, STRENGTH_MAX, STRENGTH_MIN, SchedulerName

from .. import lms

NAMES: tuple[SchedulerName, ...] = get_args(SchedulerName)
# With trailing spacing diffusers adds a timestep of -1 at 61, 103, 121 and 122 steps.
COUNTS = (1, 2, 3, 14, 15, 50, 60, 61, 62, 103, 121, 122, STEPS_MAX)
SPACINGS = ("leading", "linspace", "trailing")
CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
}
SHAPE = (1, 4, 2, 2)

steps_counts = st.integers(1, STEPS_MAX)
strengths = st.floats(STRENGTH_MIN, STRENGTH_MAX)


def a_sampler(
    name: SchedulerName, steps: int, strength: float | None = None, **config: Any
) -> Sampler:
    draws = torch.Generator().manual_seed(9)
    return Sampler(name, {**CONFIG, **config}, steps=steps, strength=strength, draws=draws)


def finished(sampler: Sampler, latents: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    while not sampler.done:
        sampler.scale(latents)
        latents = sampler.step(prediction, latents)
    return latents


@given(steps_counts)
def test_from_noise_every_step_is_taken(steps: int) -> None:
    assert start_step(steps, None) == 0


@given(steps_counts, strengths)
def test_the_steps_that_are_taken_are_the_share_that_strength_says(
    steps: int, strength: float
) -> None:
    taken = steps - start_step(steps, strength)
    assert 1 <= taken <= steps
    assert taken == 1 or taken <= steps * strength < taken + 1
    assert start_step(steps, STRENGTH_MAX) == 0


@pytest.mark.parametrize(
    ("steps", "strength", "first"), [(50, 0.58, 22), (50, 0.3, 35), (50, 0.8, 10), (10, 0.05, 9)]
)
def test_the_first_step_is_that_of_the_pipeline(steps: int, strength: float, first: int) -> None:
    assert start_step(steps, strength) == first


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_has_the_steps_that_were_asked_for(name: SchedulerName, spacing: str) -> None:
    most = REGISTRY[name].most_steps
    for steps in range(1, STEPS_MAX + 1) if name == "ddim" else COUNTS:
        sampler = a_sampler(name, min(steps, most), timestep_spacing=spacing)
        assert sampler.steps == min(steps, most)
        assert sampler.taken == 0


@pytest.mark.parametrize("steps", [60, 61, 62, 103])
@pytest.mark.parametrize("name", [name for name in NAMES if not REGISTRY[name].draws_noise])
def test_the_last_step_leaves_the_picture(name: SchedulerName, steps: int) -> None:
    sampler = a_sampler(name, steps, timestep_spacing="trailing", set_alpha_to_one=True)
    picture = torch.full(SHAPE, 0.5)
    noise = torch.full(SHAPE, -1.5)
    latents = sampler.start_from_latents(picture, noise)
    # Whoever knows the noise gets the picture, but for what DDIM of diffusers loses where the
    # steps do not divide 1000: it takes each for 1000 // steps timesteps long.
    loss = 0.4 if name == "ddim" else 1e-4
    torch.testing.assert_close(finished(sampler, latents, noise), picture, atol=loss, rtol=0)


def test_no_step_is_left_out_where_the_first_timesteps_are_equal() -> None:
    theirs = DPMSolverMultistepScheduler.from_config(CONFIG, use_beta_sigmas=True)
    theirs.set_timesteps(50)
    assert theirs.timesteps[0] == theirs.timesteps[1]
    assert theirs.index_for_timestep(theirs.timesteps[0]) == 1
    theirs.set_begin_index(0)
    draws = torch.Generator().manual_seed(5)
    latents, prediction = (torch.randn(SHAPE, generator=draws) for _ in range(2))
    ours = Sampler("dpmpp_2m", CONFIG, steps=50, spacing="beta")
    expected = theirs.step(prediction, theirs.timesteps[0], latents).prev_sample
    assert torch.equal(ours.step(prediction, latents), expected)


@pytest.mark.parametrize("strength", [None, 0.8, 0.58, 0.1])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_an_lms_step_is_as_long_as_the_schedule_says(spacing: str, strength: float | None) -> None:
    # A derivative that is the same at every step is integrated exactly by any order. From a
    # middle step diffusers' own steps are not: the first is twice as long.
    steps = 20
    sampler = a_sampler("lms", steps, strength, timestep_spacing=spacing)
    sigmas = sigma_of_each_step(spacing, steps)[start_step(steps, strength) :]
    latents = torch.full(SHAPE, 7.0)
    for now, then in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        sampler.scale(latents)
        moved = sampler.step(torch.ones(SHAPE), latents)
        torch.testing.assert_close(
            moved - latents, torch.full(SHAPE, then - now), atol=1e-4, rtol=1e-4
        )
        latents = moved


def sigma_of_each_step(spacing: str, steps: int) -> list[float]:
    sampler = a_sampler("lms", steps, timestep_spacing=spacing)
    nothing, one = torch.zeros(SHAPE), torch.ones(SHAPE)
    sigmas = []
    for _ in range(steps):
        # The noise that an image starts with at a step is the step's sigma times noise of 1.
        scaled = float(sampler.scale(one)[0, 0, 0, 0])
        sigmas.append((1 / scaled**2 - 1) ** 0.5)
        sampler.step(nothing, nothing)
    return sigmas


@pytest.mark.parametrize("strength", [1.0, 0.8, 0.35, 0.1])
def test_lms_follows_the_definition_from_whatever_step_it_starts(strength: float) -> None:
    steps = 20
    _, sigmas = lms.schedule(steps)
    start = start_step(steps, strength)

    def derivative(latents: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
        return torch.sin(latents) / (sigma + 0.5)

    draws = torch.Generator().manual_seed(3)
    picture, noise = (torch.randn(SHAPE, generator=draws) for _ in range(2))
    expected = lms.denoise(picture + sigmas[start] * noise, derivative, sigmas, start)

    sampler = a_sampler("lms", steps, strength, timestep_spacing="leading")
    latents = sampler.start_from_latents(picture, noise)
    for step in range(start, steps):
        sampler.scale(latents)
        latents = sampler.step(derivative(latents, sigmas[step], step), latents)
    torch.testing.assert_close(latents, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_each_image_has_a_schedule_of_its_own(name: SchedulerName) -> None:
    draws = torch.Generator().manual_seed(5)
    latents, prediction = (torch.randn(SHAPE, generator=draws) for _ in range(2))
    alone = finished(a_sampler(name, 8), latents, prediction)
    one, other = a_sampler(name, 8), a_sampler(name, 5, 0.6)
    mine, theirs = latents, latents
    while not one.done:
        one.scale(mine)
        mine = one.step(prediction, mine)
        if not other.done:
            other.scale(theirs)
            theirs = other.step(-prediction, theirs)
    assert torch.equal(mine, alone)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_plain_values_that_make_the_same_schedule(name: SchedulerName) -> None:
    config = {"trained_betas": None, "_class_name": "PNDMScheduler", "skip_prk_steps": True}
    sampler = a_sampler(name, 9, timestep_spacing="trailing", **config)
    settings = sampler.settings
    assert json.loads(json.dumps(settings)) == settings
    assert list(settings) == sorted(settings)
    assert settings["timestep_spacing"] == "trailing"
    assert not [key for key in settings if key.startswith("_")]
    again = Sampler(name, settings, steps=9, draws=torch.Generator().manual_seed(9))
    assert again.settings == settings
    latents, prediction = torch.ones(SHAPE), torch.full(SHAPE, 0.3)
    assert torch.equal(finished(again, latents, prediction), finished(sampler, latents, prediction))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_latents_keep_their_type(name: SchedulerName, dtype: torch.dtype) -> None:
    sampler = a_sampler(name, 6, 0.7)
    noise = torch.ones(SHAPE, dtype=dtype)
    assert sampler.start_from_noise(noise).dtype is dtype
    latents = sampler.start_from_latents(noise, noise)
    while not sampler.done:
        assert sampler.scale(latents).dtype is dtype
        latents = sampler.step(noise, latents)
        assert latents.dtype is dtype
