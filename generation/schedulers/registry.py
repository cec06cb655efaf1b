"""The schedulers: one row for each. Importing this module loads no torch.

A name is also listed in `generation.values.request.SchedulerName`, since a request, a slash
command and the command line know nothing of schedulers but their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from ..values.request import STEPS_MAX, SchedulerName, Spacing

Kind: TypeAlias = Literal["diffusion", "flow"]
"""What a model was trained for: to predict noise (or v), or the velocity of flow matching."""

# What StableDiffusionPipeline writes over the config of any scheduler: the models were trained
# with an offset of one step, and clipping is for pixels, not for latents.
_PIPELINE_SETTINGS: Final = {"steps_offset": 1, "clip_sample": False}
# The steps of the schedule that a consistency model is distilled from; a shorter one is a part.
_DISTILLED_STEPS: Final = 50
_DISTILLED_SETTINGS: Final = {
    **_PIPELINE_SETTINGS,
    "original_inference_steps": _DISTILLED_STEPS,
}

_SIGMAS: Final[tuple[Spacing, ...]] = ("karras", "exponential", "beta")
_ALL: Final[tuple[Spacing, ...]] = (*_SIGMAS, "trailing")
_TRAILING: Final[tuple[Spacing, ...]] = ("trailing",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What a scheduler is for one kind of model.

    `load` returns the class, which has the methods of diffusers' schedulers. `settings` overrule
    the model's config. `spacings` are the spacings of noise levels that the class knows.
    `zero_snr` says whether the class can start from noise alone, as a model with zero terminal SNR
    was trained to (https://arxiv.org/abs/2305.08891).
    """

    load: Callable[[], Any]
    settings: Mapping[str, Any]
    spacings: tuple[Spacing, ...] = ()
    zero_snr: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """One scheduler.

    `label` is the name for people, `a1111` AUTOMATIC1111's name in PNG files, and `others` are
    names in other programs. `methods` has one class for each kind of model that the scheduler fits.
    `calls` is the number of times that a step calls the network; the last step calls it once.
    `draws_noise` says whether a step draws new noise. `history` is the highest order of a linear
    multistep method, which its `step` has to be told, or 0. `most_steps` is the largest number of
    steps.
    """

    label: str
    a1111: str
    methods: Mapping[Kind, Method]
    calls: int = 1
    draws_noise: bool = False
    history: int = 0
    most_steps: int = STEPS_MAX
    others: tuple[str, ...] = ()


def _of_diffusers(name: str) -> Callable[[], Any]:
    def load() -> Any:
        import diffusers  # noqa: PLC0415 - it loads torch

        return getattr(diffusers, name)

    return load


def _lms() -> Any:
    from .lms import LMSScheduler  # noqa: PLC0415 - it loads torch

    return LMSScheduler


def _dpmpp_sde() -> Any:
    from .dpmpp_sde import DPMSolverSDE  # noqa: PLC0415 - it loads torch

    return DPMSolverSDE


def _flow_heun() -> Any:
    from .flow_heun import FlowHeunScheduler  # noqa: PLC0415 - it loads torch

    return FlowHeunScheduler


REGISTRY: Final[Mapping[SchedulerName, Scheduler]] = {
    "lms": Scheduler(
        label="LMS",
        a1111="LMS",
        methods={
            "diffusion": Method(
                load=_lms, settings=_PIPELINE_SETTINGS, spacings=_ALL, zero_snr=False
            )
        },
        history=4,
    ),
    "ddim": Scheduler(
        label="DDIM",
        a1111="DDIM",
        methods={
            "diffusion": Method(
                load=_of_diffusers("DDIMScheduler"),
                settings=_PIPELINE_SETTINGS,
                spacings=_TRAILING,
            )
        },
    ),
    "euler": Scheduler(
        label="Euler",
        a1111="Euler",
        methods={
            "diffusion": Method(
                load=_of_diffusers("EulerDiscreteScheduler"),
                settings=_PIPELINE_SETTINGS,
                spacings=_ALL,
            ),
            "flow": Method(
                load=_of_diffusers("FlowMatchEulerDiscreteScheduler"),
                settings={"stochastic_sampling": False},
                spacings=_SIGMAS,
            ),
        },
    ),
    "euler_a": Scheduler(
        label="Euler a",
        a1111="Euler a",
        others=("euler_ancestral",),
        methods={
            "diffusion": Method(
                load=_of_diffusers("EulerAncestralDiscreteScheduler"),
                settings=_PIPELINE_SETTINGS,
                spacings=_TRAILING,
            )
        },
        draws_noise=True,
    ),
    "heun": Scheduler(
        label="Heun",
        a1111="Heun",
        methods={
            "diffusion": Method(
                load=_of_diffusers("HeunDiscreteScheduler"),
                settings=_PIPELINE_SETTINGS,
                spacings=_ALL,
                zero_snr=False,
            ),
            "flow": Method(
                load=_flow_heun, settings={"stochastic_sampling": False}, spacings=_SIGMAS
            ),
        },
        calls=2,
    ),
    "dpmpp_2m": Scheduler(
        label="DPM++ 2M",
        a1111="DPM++ 2M",
        methods={
            "diffusion": Method(
                load=_of_diffusers("DPMSolverMultistepScheduler"),
                settings={
                    **_PIPELINE_SETTINGS,
                    "algorithm_type": "dpmsolver++",
                    "solver_order": 2,
                    "solver_type": "midpoint",
                },
                spacings=_ALL,
            )
        },
    ),
    "dpmpp_2m_sde": Scheduler(
        label="DPM++ 2M SDE",
        a1111="DPM++ 2M SDE",
        methods={
            "diffusion": Method(
                load=_of_diffusers("DPMSolverMultistepScheduler"),
                settings={
                    **_PIPELINE_SETTINGS,
                    "algorithm_type": "sde-dpmsolver++",
                    "solver_order": 2,
                    "solver_type": "midpoint",
                },
                spacings=_ALL,
            )
        },
        draws_noise=True,
    ),
    "dpmpp_sde": Scheduler(
        label="DPM++ SDE",
        a1111="DPM++ SDE",
        methods={
            "diffusion": Method(
                load=_dpmpp_sde, settings=_PIPELINE_SETTINGS, spacings=_ALL, zero_snr=False
            )
        },
        calls=2,
        draws_noise=True,
    ),
    "unipc": Scheduler(
        label="UniPC",
        a1111="UniPC",
        others=("uni_pc_bh2",),
        methods={
            "diffusion": Method(
                load=_of_diffusers("UniPCMultistepScheduler"),
                settings={
                    **_PIPELINE_SETTINGS,
                    "solver_order": 2,
                    "solver_type": "bh2",
                    "predict_x0": True,
                },
                spacings=_ALL,
            )
        },
    ),
    "ddpm": Scheduler(
        label="DDPM",
        a1111="DDPM",
        methods={
            "diffusion": Method(
                load=_of_diffusers("DDPMScheduler"),
                settings={**_PIPELINE_SETTINGS, "variance_type": "fixed_small"},
                spacings=_TRAILING,
            )
        },
        draws_noise=True,
    ),
    "lcm": Scheduler(
        label="LCM",
        a1111="LCM",
        methods={
            "diffusion": Method(load=_of_diffusers("LCMScheduler"), settings=_DISTILLED_SETTINGS)
        },
        draws_noise=True,
        most_steps=_DISTILLED_STEPS,
    ),
    "tcd": Scheduler(
        label="TCD",
        a1111="TCD",
        methods={
            "diffusion": Method(load=_of_diffusers("TCDScheduler"), settings=_DISTILLED_SETTINGS)
        },
        draws_noise=True,
        most_steps=_DISTILLED_STEPS,
    ),
}


@dataclass(frozen=True, slots=True)
class SpacingNames:
    """The name of a spacing for people, and AUTOMATIC1111's name in PNG files."""

    label: str
    a1111: str


SPACINGS: Final[Mapping[Spacing, SpacingNames]] = {
    "karras": SpacingNames("Karras", "Karras"),
    "exponential": SpacingNames("exponential", "Exponential"),
    "beta": SpacingNames("beta", "Beta"),
    "trailing": SpacingNames("trailing", "SGM Uniform"),
}
_FLAGS: Final[Mapping[Spacing, str]] = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
}


def settings_of(method: Method, spacing: Spacing | None) -> dict[str, Any]:
    """Return what overrules the config of a model; without a `spacing` the config's is kept."""
    settings = dict(method.settings)
    if spacing is None:
        return settings
    if set(_SIGMAS) <= set(method.spacings):
        settings |= {flag: spacing == name for name, flag in _FLAGS.items()}
    if spacing == "trailing":
        settings["timestep_spacing"] = "trailing"
    return settings
