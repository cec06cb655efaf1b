"""The noise that a step draws: from the image's own generator, in float32, as in diffusers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from generation.schedulers import dpmpp_sde
from generation.schedulers.dpmpp_sde import BrownianPath, DPMSolverSDE
from generation.schedulers.registry import REGISTRY
from generation.schedulers.sampler import Sampler
from generation.values.request import SchedulerName

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (1, 4, 2, 2)
DRAWING = [name for name, row in REGISTRY.items() if row.draws_noise]


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("start", [0, 4])
def test_dpmpp_sde_takes_the_steps_of_diffusers_class(start: int) -> None:
    steps = 8
    theirs = dpmpp_sde._library_class().from_config(CONFIG)
    theirs.set_timesteps(steps)
    theirs.set_begin_index(2 * start)
    ours = Sampler(
        "dpmpp_sde",
        CONFIG,
        steps=steps,
        strength=(steps - start) / steps,
        draws=generator(),
    )
    latents = expected = 10 * torch.ones(SHAPE)
    theirs.noise_sampler = BrownianPath(generator(), latents)
    for timestep in theirs.timesteps[2 * start :]:
        assert ours.timestep == timestep
        seen = theirs.scale_model_input(expected, timestep)
        torch.testing.assert_close(ours.scale(latents), seen, rtol=0, atol=0)
        expected = theirs.step(torch.sin(seen), timestep, expected).prev_sample
        latents = ours.step(torch.sin(seen), latents)
        assert torch.equal(latents, expected)
    assert ours.done


def test_dpmpp_sde_follows_the_definition() -> None:
    """`sample_dpmpp_sde` of k-diffusion, algorithm 1 of https://arxiv.org/abs/2211.01095."""
    steps = 6
    ours = Sampler("dpmpp_sde", CONFIG, steps=steps, draws=generator())
    schedule = DPMSolverSDE.from_config(CONFIG)
    schedule.set_timesteps(steps)
    sigmas = [float(schedule.sigmas[0]), *(float(s) for s in schedule.sigmas[1::2])]

    def denoised(latents: torch.Tensor, sigma: float) -> torch.Tensor:
        return latents - sigma * torch.sin(latents / math.sqrt(sigma**2 + 1))

    path = BrownianPath(generator(), torch.zeros(SHAPE, dtype=torch.float64))
    expected = 10 * torch.ones(SHAPE, dtype=torch.float64)
    for now, then in itertools.pairwise(sigmas):
        first = denoised(expected, now)
        if then == 0:
            expected = first
            continue
        middle = math.sqrt(now * then)

        def move(
            origin: torch.Tensor, target: torch.Tensor, start: float, end: float
        ) -> torch.Tensor:
            up = min(end, math.sqrt(end**2 * (start**2 - end**2) / start**2))
            down = math.sqrt(end**2 - up**2)
            noise = path(torch.tensor(start), torch.tensor(end))
            return target + down / start * (origin - target) + up * noise

        halfway = move(expected, first, now, middle)
        expected = move(expected, denoised(halfway, middle), now, then)

    latents = 10 * torch.ones(SHAPE)
    while not ours.done:
        latents = ours.step(torch.sin(ours.scale(latents)), latents)
    torch.testing.assert_close(latents.double(), expected, rtol=1e-3, atol=1e-3)


def test_both_moves_of_a_step_follow_one_path() -> None:
    like = torch.zeros(200_000)
    path = BrownianPath(generator(), like)
    start, middle, end = (torch.tensor(sigma) for sigma in (4.0, 3.0, 1.0))
    half, whole = path(start, middle), path(start, end)
    for move in (half, whole):
        assert float(move.mean()) == pytest.approx(0, abs=0.01)
        assert float(move.std()) == pytest.approx(1, abs=0.01)
    # A third of the way is shared, so the correlation is the root of a third.
    assert float((half * whole).mean()) == pytest.approx(math.sqrt(1 / 3), abs=0.01)
    after = path(end, torch.tensor(0.5))
    assert float((whole * after).mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_noise_is_the_same_in_half_precision(name: SchedulerName, dtype: torch.dtype) -> None:
    draws = [generator(), generator()]
    full, half = (Sampler(name, CONFIG, steps=6, draws=draw) for draw in draws)
    latents, rounded = torch.ones(SHAPE), torch.ones(SHAPE, dtype=dtype)
    while not full.done:
        latents = full.step(torch.zeros(SHAPE), latents)
        rounded = half.step(torch.zeros(SHAPE, dtype=dtype), rounded)
        assert torch.equal(draws[0].get_state(), draws[1].get_state())
    assert rounded.dtype is dtype
    torch.testing.assert_close(rounded.float(), latents, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", DRAWING)
def test_another_seed_gives_other_noise(name: SchedulerName) -> None:
    made = []
    for seed in (3, 4):
        sampler = Sampler(name, CONFIG, steps=4, draws=generator(seed))
        latents = torch.ones(SHAPE)
        while not sampler.done:
            latents = sampler.step(torch.sin(sampler.scale(latents)), latents)
        made.append(latents)
    assert not torch.allclose(*made)
