"""Flow matching: the steps are those of diffusers, with what a model says of its schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from generation.schedulers.sampler import Sampler
from generation.values.request import SchedulerName

SHAPE = (1, 4, 2, 2)
STATIC = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": False,
}
DYNAMIC = {**STATIC, "shift": 1.0, "use_dynamic_shifting": True}
SIGMAS = [1.0, 0.75, 0.5, 0.25]
NAMES: tuple[SchedulerName, ...] = ("euler", "heun")


def moved(scheduler: Any, first: int = 0) -> torch.Tensor:
    """Return where a scheduler of diffusers ends, from the call `first` on."""
    latents = torch.ones(SHAPE)
    scheduler.set_begin_index(first)
    for timestep in scheduler.timesteps[first:]:
        latents = scheduler.step(torch.sin(latents), timestep, latents).prev_sample
    return latents


def finished(sampler: Sampler) -> torch.Tensor:
    latents = torch.ones(SHAPE)
    while not sampler.done:
        assert sampler.scale(latents) is latents
        latents = sampler.step(torch.sin(latents), latents)
    return latents


@pytest.mark.parametrize(("strength", "start"), [(None, 0), (0.5, 4)])
def test_euler_takes_the_steps_of_diffusers(strength: float | None, start: int) -> None:
    theirs = FlowMatchEulerDiscreteScheduler.from_config(STATIC)
    theirs.set_timesteps(8)
    ours = Sampler("euler", STATIC, steps=8, strength=strength)
    assert torch.equal(finished(ours), moved(theirs, start))


@pytest.mark.parametrize("settings", [{"mu": 1.1}, {"mu": 0.4, "sigmas": SIGMAS}], ids=str)
def test_the_schedule_is_what_the_model_says_of_a_picture(settings: dict[str, Any]) -> None:
    theirs = FlowMatchEulerDiscreteScheduler.from_config(DYNAMIC)
    theirs.set_timesteps(4, **settings)
    ours = Sampler("euler", DYNAMIC, steps=4, settings=settings)
    assert torch.equal(finished(ours), moved(theirs))


@pytest.mark.parametrize(("strength", "start"), [(None, 0), (0.5, 8)])
def test_heun_takes_the_steps_of_diffusers_where_diffusers_knows_the_schedule(
    strength: float | None, start: int
) -> None:
    theirs = FlowMatchHeunDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    theirs.set_timesteps(8)
    ours = Sampler("heun", STATIC, steps=8, strength=strength)
    assert torch.equal(finished(ours), moved(theirs, start))


def test_heun_is_nearer_to_the_exact_solution_than_euler() -> None:
    settings = {"mu": 1.1}
    exact = finished(Sampler("heun", DYNAMIC, steps=150, settings=settings))
    euler, heun = (
        finished(Sampler(name, DYNAMIC, steps=steps, settings=settings))
        for name, steps in (("euler", 15), ("heun", 8))
    )
    assert (heun - exact).abs().max() < 0.5 * (euler - exact).abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_starts_between_picture_and_noise(name: SchedulerName) -> None:
    picture, noise = torch.full(SHAPE, 0.5), torch.full(SHAPE, -1.5)
    sampler = Sampler(name, STATIC, steps=8, strength=0.5)
    sigma = float(sampler.timestep) / 1000
    assert 0.1 < sigma < 0.9
    latents = sampler.start_from_latents(picture, noise)
    torch.testing.assert_close(latents, sigma * noise + (1 - sigma) * picture)
    # The velocity from the picture to the noise leads back to the picture.
    while not sampler.done:
        latents = sampler.step(noise - picture, latents)
        assert sampler.predicted is not None
        torch.testing.assert_close(sampler.predicted, picture, rtol=0, atol=1e-5)
    torch.testing.assert_close(latents, picture, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_where_a_schedule_starts(name: SchedulerName) -> None:
    noise = torch.randn(SHAPE)
    assert torch.equal(Sampler(name, STATIC, steps=8).start_from_noise(noise), noise)


def test_latents_in_float32_stay_so_beside_a_network_in_half_precision() -> None:
    sampler = Sampler("euler", STATIC, steps=8)
    stepped = sampler.step(torch.ones(SHAPE, dtype=torch.bfloat16), torch.full(SHAPE, 1 / 3))
    assert stepped.dtype is torch.float32
    assert not torch.equal(stepped, stepped.bfloat16().float())


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "lcm"])
def test_what_is_not_for_flow_matching_is_refused(name: SchedulerName) -> None:
    with pytest.raises(ValueError, match="no scheduler for a model of the kind flow"):
        Sampler(name, STATIC, steps=8, draws=torch.Generator())
