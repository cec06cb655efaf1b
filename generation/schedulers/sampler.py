"""The steps of one image through a schedule."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import torch

from ..values.request import SchedulerName, Spacing, start_step
from .fitting import kind_of
from .registry import REGISTRY, settings_of

# diffusers' Euler schedulers use it in place of zero: the smallest number of a float16.
_SMALLEST_SIGNAL: Final = 2.0**-24
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Sampler:
    """The schedule of one image, and how far along it the image is.

    Every image has a sampler of its own. Schedulers keep state: the step index and, for multistep
    methods, the last predictions. Sharing a scheduler is the mistake most often reported to
    diffusers.

    `config` are the settings of the schedule that the model was trained on, and `spacing` is the
    person's choice of noise levels. `settings` are what the model says of a picture of this size:
    arguments of the scheduler's `set_timesteps` beside the number of steps, such as `mu` or
    `sigmas`. `draws` is the image's generator on the CPU: a scheduler that draws noise draws it
    there in float32, after all that was drawn before.

    Raises:
        ValueError: the scheduler does not fit the model, or it draws noise and `draws` is missing;
            `generation.schedulers.fitting.check` says so to people.
    """

    def __init__(
        self,
        name: SchedulerName,
        config: Mapping[str, Any],
        *,
        steps: int,
        strength: float | None = None,
        spacing: Spacing | None = None,
        settings: Mapping[str, Any] = _NONE,
        draws: torch.Generator | None = None,
    ) -> None:
        self._row = REGISTRY[name]
        if self._row.draws_noise and draws is None:
            raise ValueError(f"{name} draws noise and needs a generator")
        self._draws = draws
        given = json.dumps(dict(config)), json.dumps(dict(settings))
        self._scheduler = _own_copy(_schedule(name, *given, spacing, steps))
        self._timesteps: torch.Tensor = self._scheduler.timesteps
        start = start_step(steps, strength)
        self._steps = steps - start
        self._first = start * self._row.calls
        self._called = 0
        self._predicted: torch.Tensor | None = None
        # Without it diffusers looks the first timestep up in the schedule. Where two timesteps are
        # equal it would find the second, and leave out a step.
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(self._first)

    @property
    def steps(self) -> int:
        """Return how many steps this image takes in all."""
        return self._steps

    @property
    def taken(self) -> int:
        """Return how many of the steps are done; a step may take two calls of the network."""
        return self._steps if self.done else self._called // self._row.calls

    @property
    def done(self) -> bool:
        """Return whether all steps are taken."""
        return self._first + self._called == len(self._timesteps)

    @property
    def timestep(self) -> torch.Tensor:
        """Return the timestep of the next call of the network, a scalar, possibly fractional."""
        return self._timesteps[self._first + self._called]

    @property
    def predicted(self) -> torch.Tensor | None:
        """Return the finished latents as the last step saw them; None before the first step."""
        return self._predicted

    @property
    def signal(self) -> torch.Tensor:
        """Return the image's share of the variance at each training timestep, from 1 to 0.

        It is diffusers' `alphas_cumprod`. With "ddim" a zero means that the network sees noise
        alone; schedulers that count in sigmas replace a zero by a tiny share.
        """
        shares: torch.Tensor = self._scheduler.alphas_cumprod
        return shares

    @property
    def settings(self) -> dict[str, Any]:
        """Return the scheduler's settings as plain JSON values, for the recipe.

        An infinite default, which JSON does not know, is left out.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in sorted(self._scheduler.config.items())
            if not key.startswith("_") and not (isinstance(value, float) and math.isinf(value))
        }

    def start_from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the latents at the first timestep: noise at the schedule's scale."""
        # A schedule of flow matching ends in noise of scale 1, and has no such number.
        scale: float = getattr(self._scheduler, "init_noise_sigma", 1.0)
        return noise * scale

    def start_from_latents(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return `latents` of an image with the noise of the first step that is taken."""
        timesteps = self.timestep.reshape(1)
        if hasattr(self._scheduler, "scale_noise"):
            noisy: torch.Tensor = self._scheduler.scale_noise(latents, timesteps, noise)
        else:
            noisy = self._scheduler.add_noise(latents, noise, timesteps)
        return noisy

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what the network sees: for LMS `x / sqrt(sigma**2 + 1)`, for DDIM `x`."""
        if not hasattr(self._scheduler, "scale_model_input"):
            return latents
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self.timestep)
        return scaled

    def step(self, prediction: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents after a call of the network, and move to the next timestep.

        A linear multistep method needs as many past derivatives as its order. diffusers derives the
        order from the global step index, which is wrong when an image starts in the middle of the
        schedule. Here the history begins at the first step that is really taken
        (https://github.com/huggingface/diffusers/issues/5630).

        diffusers draws noise in the type of the prediction. In half precision that gives other
        noise for the same seed, so a step that draws noise is taken in float32.
        """
        options: dict[str, Any] = {}
        dtype, timestep = latents.dtype, self.timestep
        if self._row.history:
            options["order"] = min(self._called + 1, self._row.history)
        if self._row.draws_noise:
            options["generator"] = self._draws
            latents = latents.float()
        prediction = prediction.to(latents.dtype)
        output = self._scheduler.step(prediction, timestep, latents, **options)
        self._called += 1
        found = _finished(self._scheduler, output, prediction, latents, timestep)
        self._predicted = found.to(dtype)
        stepped: torch.Tensor = output.prev_sample
        return stepped.to(dtype)


@lru_cache(maxsize=256)
def _schedule(
    name: SchedulerName, config: str, settings: str, spacing: Spacing | None, steps: int
) -> Any:
    """Return a scheduler at the start of its schedule, to be copied and never stepped."""
    row, read = REGISTRY[name], json.loads(config)
    kind = kind_of(read)
    if kind not in row.methods:
        raise ValueError(f"{name} is no scheduler for a model of the kind {kind}")
    method = row.methods[kind]
    scheduler = method.load().from_config({**read, **settings_of(method, spacing)})
    _keep_finite(scheduler)
    scheduler.set_timesteps(steps, **json.loads(settings))
    # The last step of a method of second order takes one call.
    _drop_surplus(scheduler, steps * row.calls - (row.calls - 1))
    return scheduler


def _keep_finite(scheduler: Any) -> None:
    """Leave a little of the image at a timestep where nothing of the image would be left.

    Sigma would be infinite there.
    """
    is_in_sigmas = hasattr(scheduler, "sigmas") and hasattr(scheduler, "alphas_cumprod")
    if is_in_sigmas and scheduler.alphas_cumprod[-1] == 0:
        scheduler.alphas_cumprod[-1] = _SMALLEST_SIGNAL


def _own_copy(scheduler: Any) -> Any:
    """Return a copy with a history of its own: multistep methods keep theirs in lists."""
    own = copy.copy(scheduler)
    lists = {key: value for key, value in vars(own).items() if isinstance(value, list)}
    vars(own).update({key: list(value) for key, value in lists.items()})
    return own


def _drop_surplus(scheduler: Any, calls: int) -> None:
    """Keep the timesteps of so many calls of the network.

    With trailing spacing the arithmetic of diffusers 0.42 adds a timestep of -1 at some counts (61,
    103, 121, 122). There is no such timestep: DDIM takes it for the noisiest of all and ruins the
    finished picture.
    """
    if len(scheduler.timesteps) == calls:
        return
    scheduler.timesteps = scheduler.timesteps[:calls]
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:calls], scheduler.sigmas[-1:]])


def _finished(
    scheduler: Any,
    output: Any,
    prediction: torch.Tensor,
    latents: torch.Tensor,
    timestep: torch.Tensor,
) -> torch.Tensor:
    """Return the finished latents as a step saw them, whatever the scheduler calls them."""
    found: torch.Tensor
    if hasattr(output, "pred_original_sample"):
        found = output.pred_original_sample
    elif hasattr(output, "denoised"):
        found = output.denoised
    elif hasattr(scheduler, "model_outputs"):
        # DPM++ 2M and UniPC turn each prediction into finished latents and remember those.
        found = scheduler.model_outputs[-1]
    elif hasattr(scheduler, "alphas_cumprod"):
        share = float(scheduler.alphas_cumprod[timestep])
        signal, noise = share**0.5, (1 - share) ** 0.5
        if scheduler.config.prediction_type == "v_prediction":
            found = signal * latents - noise * prediction
        else:
            found = (latents - noise * prediction) / signal
    else:
        # Flow matching: x = (1 - sigma) x0 + sigma noise, and the prediction is noise - x0.
        sigma = float(timestep) / scheduler.config.num_train_timesteps
        found = latents - sigma * prediction
    return found
