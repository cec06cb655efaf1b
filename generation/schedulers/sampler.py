"""The course that one image takes through a schedule."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import torch

from ..values.request import SchedulerName, start_step
from .registry import REGISTRY

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Sampler:
    """The schedule of one image, and how far along it the image is.

    Every image has a sampler of its own. Schedulers keep state: the step index and, for LMS, the
    last derivatives. Sharing a scheduler is the mistake most often reported to diffusers.

    `settings` are what the model says of a picture of this size: arguments of the scheduler's
    `set_timesteps` beside the number of steps, such as `mu` or `sigmas`.
    """

    def __init__(
        self,
        name: SchedulerName,
        config: Mapping[str, Any],
        *,
        steps: int,
        strength: float | None = None,
        settings: Mapping[str, Any] = _NONE,
    ) -> None:
        given = json.dumps(dict(config)), json.dumps(dict(settings))
        self._scheduler = copy.copy(_schedule(name, *given, steps))
        self._history = REGISTRY[name].history
        self._timesteps: torch.Tensor = self._scheduler.timesteps
        self._start = start_step(len(self._timesteps), strength)
        self._taken = 0
        self._predicted: torch.Tensor | None = None
        if self._history:
            self._scheduler.set_begin_index(self._start)

    @property
    def steps(self) -> int:
        """Return how many steps this image takes in all."""
        return len(self._timesteps) - self._start

    @property
    def taken(self) -> int:
        """Return how many of the steps are done."""
        return self._taken

    @property
    def timestep(self) -> torch.Tensor:
        """Return the timestep of the next step, a scalar (fractional for some LMS settings)."""
        return self._timesteps[self._start + self._taken]

    @property
    def predicted(self) -> torch.Tensor | None:
        """Return the finished latents as the last step saw them; None before the first step."""
        return self._predicted

    @property
    def signal(self) -> torch.Tensor:
        """Return the image's share of the variance at each training timestep, from 1 to 0.

        It is diffusers' `alphas_cumprod`. With "ddim" a zero means that the network sees noise
        alone; "lms" replaces a zero by a tiny share.
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
        """Return what the network sees: for LMS `x / sqrt(sigma**2 + 1)`, for DDIM `x`."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self.timestep)
        return scaled

    def step(self, prediction: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents one step on, and move to the next timestep.

        A linear multistep method needs as many past derivatives as its order. diffusers derives the
        order from the global step index, which is wrong when an image starts in the middle of the
        schedule. Here the history begins at the first step that is really taken
        (https://github.com/huggingface/diffusers/issues/5630).
        """
        options = {"order": min(self._taken + 1, self._history)} if self._history else {}
        timestep = self.timestep
        self._taken += 1
        output = self._scheduler.step(prediction, timestep, latents, **options)
        self._predicted = output.pred_original_sample
        stepped: torch.Tensor = output.prev_sample
        return stepped


@lru_cache(maxsize=256)
def _schedule(name: SchedulerName, config: str, settings: str, steps: int) -> Any:
    """Return a scheduler at the start of its schedule, to be copied and never stepped."""
    row = REGISTRY[name]
    scheduler = row.load().from_config({**json.loads(config), **row.settings})
    scheduler.set_timesteps(steps, **json.loads(settings))
    _drop_surplus(scheduler, steps)
    return scheduler


def _drop_surplus(scheduler: Any, steps: int) -> None:
    """Keep `steps` timesteps of a schedule.

    With trailing spacing the arithmetic of diffusers 0.42 adds a timestep of -1 at some counts (61,
    103, 121, 122). There is no such timestep: DDIM takes it for the noisiest of all and ruins the
    finished picture.
    """
    if len(scheduler.timesteps) == steps:
        return
    scheduler.timesteps = scheduler.timesteps[:steps]
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
