"""Scheduler names, their settings, and the course that one image takes through a schedule."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler

from ..values.request import SchedulerName, start_step

# What diffusers' Euler schedulers put in place of zero: the smallest number of a float16.
_SMALLEST_SIGNAL: Final = 2.0**-24


class _LMSScheduler(LMSDiscreteScheduler):  # type: ignore[misc]  # diffusers has no types
    """diffusers' scheduler, which integrates each coefficient once for a schedule.

    The integrals depend on the schedule alone, and at a millisecond each they are a good part
    of a step on a fast device. Copies of a scheduler share what is known.
    """

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        # Where nothing of the image is left, sigma would be infinite.
        if self.alphas_cumprod[-1] == 0:
            self.alphas_cumprod[-1] = _SMALLEST_SIGNAL
        super().set_timesteps(*args, **kwargs)
        self._coefficients: dict[tuple[int, int, int], float] = {}

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        key = (order, int(t), current_order)
        if key not in self._coefficients:
            self._coefficients[key] = super().get_lms_coefficient(order, t, current_order)
        return self._coefficients[key]


_CLASSES: Final[Mapping[SchedulerName, Any]] = {
    "ddim": DDIMScheduler,
    "lms": _LMSScheduler,
}
# What StableDiffusionPipeline writes over any scheduler that it is given: the models were
# trained with an offset of one step, and clipping is for pixels, not for latents.
_PIPELINE_SETTINGS: Final = {"steps_offset": 1, "clip_sample": False}
_LMS_ORDER: Final = 4


class Sampler:
    """The schedule of one image, and how far along it the image is.

    Every image has its own: schedulers keep state (the step index; for LMS the last
    derivatives), and sharing one is the fault most reported to diffusers.
    """

    def __init__(
        self,
        name: SchedulerName,
        config: Mapping[str, Any],
        *,
        steps: int,
        strength: float | None = None,
    ) -> None:
        self._scheduler = _fresh(_schedule(name, json.dumps(dict(config)), steps))
        self._is_multistep = name == "lms"
        self._timesteps: torch.Tensor = self._scheduler.timesteps
        self._start = start_step(len(self._timesteps), strength)
        self._taken = 0
        self._predicted: torch.Tensor | None = None
        if self._is_multistep:
            self._scheduler.set_begin_index(self._start)

    @property
    def steps(self) -> int:
        """Return how many steps this image takes in all."""
        return len(self._timesteps) - self._start

    @property
    def taken(self) -> int:
        """Return how many of them are done."""
        return self._taken

    @property
    def timestep(self) -> torch.Tensor:
        """Return the timestep of the next step, a scalar (fractional for some LMS settings)."""
        return self._timesteps[self._start + self._taken]

    @property
    def predicted(self) -> torch.Tensor | None:
        """Return the finished latents as the last step saw them; None before the first."""
        return self._predicted

    @property
    def signal(self) -> torch.Tensor:
        """Return the image's share of the variance at each training timestep, from 1 to 0.

        It is diffusers' `alphas_cumprod`. With "ddim" a zero means that the UNet is shown noise
        alone; "lms" has a tiny share there.
        """
        shares: torch.Tensor = self._scheduler.alphas_cumprod
        return shares

    @property
    def settings(self) -> dict[str, Any]:
        """Return the scheduler's settings as plain JSON values, for the recipe."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in sorted(self._scheduler.config.items())
            if not key.startswith("_")
        }

    def start_from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the latents at the first timestep: noise at the schedule's scale."""
        scale: float = self._scheduler.init_noise_sigma
        return noise * scale

    def start_from_latents(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return `latents` of an image with the noise of the first step that is taken."""
        noisy: torch.Tensor = self._scheduler.add_noise(latents, noise, self.timestep.reshape(1))
        return noisy

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what the UNet is shown: for LMS `x / sqrt(sigma**2 + 1)`, for DDIM `x`."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self.timestep)
        return scaled

    def step(self, prediction: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents one step on, and move to the next timestep.

        A linear multistep method needs as many past derivatives as its order. diffusers
        derives the order from the global step index, which is wrong when an image starts in
        the middle of the schedule: there the history begins at the first step really taken
        (https://github.com/huggingface/diffusers/issues/5630).
        """
        options = {"order": min(self._taken + 1, _LMS_ORDER)} if self._is_multistep else {}
        timestep = self.timestep
        self._taken += 1
        output = self._scheduler.step(prediction, timestep, latents, **options)
        self._predicted = output.pred_original_sample
        stepped: torch.Tensor = output.prev_sample
        return stepped


@lru_cache(maxsize=256)
def _schedule(name: SchedulerName, config: str, steps: int) -> Any:
    """Return a scheduler at the start of its schedule, to be copied and never stepped."""
    scheduler = _CLASSES[name].from_config({**json.loads(config), **_PIPELINE_SETTINGS})
    scheduler.set_timesteps(steps)
    _drop_surplus(scheduler, steps)
    return scheduler


def _fresh(scheduler: Any) -> Any:
    """Return a copy with a state of its own; the tables of the schedule are shared."""
    own = copy.copy(scheduler)
    if isinstance(own, LMSDiscreteScheduler):
        own.derivatives = []
    return own


def _drop_surplus(scheduler: Any, steps: int) -> None:
    """Keep `steps` timesteps of a schedule.

    With trailing spacing the arithmetic of diffusers 0.42 adds a timestep of -1 at some
    counts (61, 103, 121, 122). There is no such timestep: DDIM takes it for the noisiest of
    all and ruins the finished picture.
    """
    if len(scheduler.timesteps) == steps:
        return
    scheduler.timesteps = scheduler.timesteps[:steps]
    if isinstance(scheduler, LMSDiscreteScheduler):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
