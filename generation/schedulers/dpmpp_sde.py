"""DPM++ SDE: diffusers' scheduler with the noise of one image's own generator."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import diffusers
import torch


def _library_class() -> Any:
    """Return diffusers' class.

    Its module imports torchsde, for noise that depends on the device. The noise here comes from
    `BrownianPath`, so torchsde is never called and need not be installed.
    """
    # diffusers itself is imported already, so it has not taken the placeholder for torchsde.
    absent = not diffusers.utils.is_torchsde_available()
    if absent:
        sys.modules["torchsde"] = ModuleType("torchsde")
    try:
        from diffusers.schedulers.scheduling_dpmsolver_sde import (  # noqa: PLC0415
            DPMSolverSDEScheduler,
        )
    finally:
        if absent:
            del sys.modules["torchsde"]
    return DPMSolverSDEScheduler


class BrownianPath:
    """A Brownian motion over falling noise levels, one draw for each stretch of the way.

    A step of DPM++ SDE moves from its first noise level to the middle, and then again from the
    first to the last. Both moves have to follow one path: the second contains the first.
    """

    def __init__(self, draws: torch.Generator, like: torch.Tensor) -> None:
        self._draws = draws
        self._like = like
        self._start: float | None = None
        self._reached = 0.0
        self._moved = torch.zeros(())

    def __call__(self, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        """Return the move from one noise level to a lower one, scaled to a variance of 1."""
        start, end = float(sigma), float(sigma_next)
        if self._start != start:
            self._start, self._reached, self._moved = start, start, torch.zeros(())
        drawn = torch.randn(self._like.shape, generator=self._draws, dtype=torch.float32)
        self._moved = self._moved + (self._reached - end) ** 0.5 * drawn
        self._reached = end
        scaled: torch.Tensor = self._moved / (start - end) ** 0.5
        return scaled.to(self._like)


class DPMSolverSDE(_library_class()):  # type: ignore[misc]  # diffusers has no types
    """diffusers' scheduler, whose `step` takes a generator like that of other schedulers."""

    noise_sampler: Any

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return what diffusers' `step` does; each call but the last draws once."""
        if self.noise_sampler is None and generator is not None:
            self.noise_sampler = BrownianPath(generator, sample)
        return super().step(model_output, timestep, sample, **kwargs)
