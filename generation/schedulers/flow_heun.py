"""Heun's method for flow matching, on the schedule of diffusers' Euler method."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler


class FlowHeunScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # no types
    """diffusers' Heun step on the schedule of diffusers' Euler scheduler.

    diffusers' own Heun scheduler knows neither a shift that depends on the size of the picture nor
    sigmas that a pipeline gives. Where a model needs neither, both make the same schedule.
    """

    order = 2
    sigmas: torch.Tensor
    timesteps: torch.Tensor
    step = FlowMatchHeunDiscreteScheduler.step
    state_in_first_order = FlowMatchHeunDiscreteScheduler.state_in_first_order

    # diffusers' pipelines look for the names of the arguments.
    @functools.wraps(FlowMatchEulerDiscreteScheduler.set_timesteps)
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Make the Euler schedule, then list each noise level but the first and last twice."""
        super().set_timesteps(*args, **kwargs)
        sigmas, timesteps = self.sigmas, self.timesteps
        self.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        self.timesteps = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)])
        self.prev_derivative = None
        self.dt = None
