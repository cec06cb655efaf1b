"""Where the steps lead if the network knows the picture: to the picture, with any schedule.

A network that knows the picture predicts, for what it sees at a timestep, the noise (or v, or the
velocity) by which the picture was covered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from generation.schedulers.registry import REGISTRY, Kind
from generation.schedulers.sampler import Sampler
from generation.values.request import SchedulerName, Spacing

SHAPE = (1, 4, 4, 4)
DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": True,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
CELLS = [
    (name, kind, spacing)
    for name, row in REGISTRY.items()
    for kind, method in row.methods.items()
    for spacing in (None, *method.spacings)
]


def known(picture: torch.Tensor, sampler: Sampler, latents: torch.Tensor, v: bool) -> torch.Tensor:
    """Return the prediction of a network of noise, or of v, that knows the picture."""
    seen = sampler.scale(latents)
    share = share_of_the_picture(sampler)
    noise = (seen - share**0.5 * picture) / (1 - share) ** 0.5
    return share**0.5 * noise - (1 - share) ** 0.5 * picture if v else noise


def share_of_the_picture(sampler: Sampler) -> float:
    """Return `alphas_cumprod` at a timestep that may lie between two, as diffusers counts it."""
    shares = sampler.signal.double().numpy()
    sigmas = ((1 - shares) / shares) ** 0.5
    timestep = float(sampler.timestep)
    return float(1 / (1 + np.exp(np.interp(timestep, range(1000), np.log(sigmas))) ** 2))


@pytest.mark.parametrize("strength", [None, 0.5])
@pytest.mark.parametrize(("name", "kind", "spacing"), CELLS)
@pytest.mark.parametrize("v", [False, True], ids=["noise", "v"])
def test_a_network_that_knows_the_picture_makes_the_picture(
    name: SchedulerName, kind: Kind, spacing: Spacing | None, strength: float | None, v: bool
) -> None:
    draws = torch.Generator().manual_seed(5)
    picture, noise = (torch.randn(SHAPE, generator=draws) for _ in range(2))
    config: dict[str, Any] = dict(FLOW if kind == "flow" else DIFFUSION)
    if v and kind == "diffusion":
        config["prediction_type"] = "v_prediction"
    sampler = Sampler(name, config, steps=20, strength=strength, spacing=spacing, draws=draws)
    latents = (
        sampler.start_from_noise(noise)
        if strength is None
        else sampler.start_from_latents(picture, noise)
    )
    while not sampler.done:
        if kind == "flow":
            sigma = float(sampler.timestep) / 1000
            prediction = (latents - picture) / sigma
        else:
            prediction = known(picture, sampler, latents, v)
        latents = sampler.step(prediction, latents)
        # What a preview shows is the picture from the first step on.
        assert sampler.predicted is not None
        torch.testing.assert_close(sampler.predicted, picture, rtol=0, atol=0.1)
    torch.testing.assert_close(latents, picture, rtol=0, atol=0.1)
