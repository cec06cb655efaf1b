"""The schedulers: one row for each. Importing this module loads no torch.

A name is also listed in `generation.values.request.SchedulerName`, since a request, a slash
command and the command line know nothing of schedulers but their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..values.request import SchedulerName

# What StableDiffusionPipeline writes over the config of any scheduler: the models were trained
# with an offset of one step, and clipping is for pixels, not for latents.
_PIPELINE_SETTINGS: Final = {"steps_offset": 1, "clip_sample": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """One scheduler.

    `load` returns the class, which has the methods of diffusers' schedulers. `settings` overrule
    the model's config. `label` is the name for people, `a1111` AUTOMATIC1111's name in PNG files.
    `history` is the number of steps that a multistep method remembers, or 0. `draws_noise` says
    whether a step draws new noise.
    """

    label: str
    a1111: str
    load: Callable[[], Any]
    settings: Mapping[str, Any]
    history: int = 0
    draws_noise: bool = False


def _lms() -> Any:
    from .lms import LMSScheduler  # noqa: PLC0415 - it loads torch

    return LMSScheduler


def _ddim() -> Any:
    from diffusers import DDIMScheduler  # noqa: PLC0415 - it loads torch

    return DDIMScheduler


REGISTRY: Final[Mapping[SchedulerName, Scheduler]] = {
    "lms": Scheduler(label="LMS", a1111="LMS", load=_lms, settings=_PIPELINE_SETTINGS, history=4),
    "ddim": Scheduler(label="DDIM", a1111="DDIM", load=_ddim, settings=_PIPELINE_SETTINGS),
}
