"""What a model was trained to predict, and which schedulers fit the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ...catalog.configs import Config, Configs
from ...errors import ModelError
from ...schedulers.fitting import fitting, kind_of
from ...values.request import SchedulerName
from .facts import Test

_FEW_STEPS_KINDS: Final = frozenset({"LCMScheduler", "TCDScheduler"})
# The names of the classes of diffusers for which a model may have been made.
_OWN_SCHEDULERS: Final[Mapping[str, SchedulerName]] = {
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc",
}
_PREDICTIONS: Final = frozenset({"epsilon", "v_prediction"})
_SHIFT: Final = "shift"
_SHIFTS: Final = (1e-3, 1e3)


def diffusion(configs: Configs) -> Mapping[str, Any]:
    """Return that a model predicts epsilon or v, with the schedulers for either; DDIM is first.

    Raises:
        ModelError: the schedule is of another kind, or does not fit the prediction.
    """
    return {
        "prediction_type": _prediction_type(configs.scheduler),
        "schedulers": fitting(configs.scheduler.values),
        "default_scheduler": "ddim",
    }


def flow(configs: Configs) -> Mapping[str, Any]:
    """Return that a model predicts a velocity, with the schedulers for that; Euler's is first.

    Raises:
        ModelError: the schedule is of another kind, or its shift is no number.
    """
    scheduler = configs.scheduler
    if scheduler.values.get(_SHIFT) is not None:
        scheduler.number(_SHIFT, 1.0, *_SHIFTS)
    if kind_of(scheduler.values) != "flow":
        raise scheduler.wrong("_class_name", "a scheduler for flow matching")
    return {
        "prediction_type": "flow",
        "schedulers": fitting(scheduler.values),
        "default_scheduler": "euler",
    }


def own_scheduler(configs: Configs) -> Mapping[str, Any]:
    """Return the scheduler that a config was written for, or DDIM where that does not fit."""
    scheduler = configs.scheduler.values
    own = _OWN_SCHEDULERS.get(str(scheduler.get("_class_name")), "ddim")
    return {"default_scheduler": own if own in fitting(scheduler) else "ddim"}


def has_shift(shift: float) -> Test:
    """Return whether the schedule has this fixed shift."""
    return lambda configs: bool(configs.scheduler.values.get(_SHIFT, 1.0) == shift)


def takes_few_steps(configs: Configs) -> bool:
    """Return whether the config of the scheduler is that of a model distilled to a few steps.

    Such models come with a scheduler of their own (LCM, TCD), or with Euler's method and trailing
    timesteps (Turbo, Lightning).
    """
    scheduler = configs.scheduler.values
    kind = str(scheduler.get("_class_name"))
    is_trailing = scheduler.get("timestep_spacing") == "trailing"
    predicts_noise = scheduler.get("prediction_type", "epsilon") == "epsilon"
    return kind in _FEW_STEPS_KINDS or (kind.startswith("Euler") and is_trailing and predicts_noise)


def _prediction_type(scheduler: Config) -> str:
    if str(scheduler.values.get("_class_name")).startswith("EDM"):
        raise scheduler.wrong("_class_name", "a scheduler for alphas and betas")
    found = str(scheduler.values.get("prediction_type", "epsilon"))
    if found not in _PREDICTIONS:
        raise scheduler.wrong("prediction_type", " or ".join(sorted(_PREDICTIONS)))
    if found == "epsilon" and scheduler.values.get("rescale_betas_zero_snr"):
        raise noise_alone(scheduler.path, "rescale_betas_zero_snr")
    return found


def noise_alone(path: Path, reason: str) -> ModelError:
    """Return the error for a schedule with zero terminal SNR and a UNet that predicts epsilon."""
    return ModelError(
        f"{path} starts from noise alone ({reason}), where a UNet that predicts epsilon says "
        'nothing; set prediction_type = "v_prediction" in the configuration if the model was '
        "trained so, or choose another one."
    )
