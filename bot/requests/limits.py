"""The limits and defaults of requests, and the limits of the queue, asked for by server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from generation.catalog.profile import ModelProfile
from generation.queue.admission import QueueLimits
from generation.values.request import SchedulerName

from ..config import Settings
from ..listing import ListedModel

# Models that were distilled to a few steps take at most so many.
_FEW_STEPS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a request may ask for, and the values of options that are left out.

    Sizes are in pixels: `max_size` bounds each side, `default_size` is the side of a square.
    """

    max_steps: int
    max_size: int
    default_steps: int
    default_size: int
    default_guidance_scale: float
    default_strength: float
    default_scheduler: SchedulerName


class LimitsSource(Protocol):
    """Knows the limits of each server."""

    def limits_for(self, guild_id: int | None) -> Limits:
        """Return the limits in a server; None stands for direct messages and the command line."""


class QueueLimitsSource(Protocol):
    """Knows how many jobs of each server may wait."""

    def queue_limits_for(self, guild_id: int | None) -> QueueLimits:
        """Return the limits for jobs of a server; None stands for direct messages."""


class OperatorLimits:
    """The limits of the operator's settings and one model, the same in every server.

    The defaults of `listed`, the model in the operator's list, come before the others.
    """

    def __init__(
        self, settings: Settings, profile: ModelProfile, listed: ListedModel | None = None
    ) -> None:
        listed = listed or settings.default_model
        max_size = settings.max_size or profile.default_max_size
        multiple = profile.size_multiple
        self._limits = Limits(
            max_steps=settings.max_steps,
            max_size=max_size,
            default_steps=listed.steps
            or settings.steps
            or min(profile.default_steps, settings.max_steps),
            default_size=min(listed.size or profile.native_size, max_size) // multiple * multiple,
            default_guidance_scale=listed.guidance_scale
            or settings.guidance_scale
            or profile.default_guidance_scale,
            default_strength=profile.default_strength,
            default_scheduler=_scheduler(listed, profile),
        )

    def limits_for(self, guild_id: int | None) -> Limits:  # noqa: ARG002 - no server differs yet
        """Return the operator's limits."""
        return self._limits


class OperatorQueueLimits:
    """The limits of the queue in the operator's settings, the same in every server."""

    def __init__(self, settings: Settings) -> None:
        self._limits = QueueLimits(
            settings.queue_limit, settings.member_limit, settings.guild_limit
        )

    def queue_limits_for(self, guild_id: int | None) -> QueueLimits:  # noqa: ARG002 - as above
        """Return the operator's limits of the queue."""
        return self._limits


def overruled(settings: Settings, profile: ModelProfile, listed: ListedModel) -> Iterator[str]:
    """Yield a sentence for each general setting that hardly suits a model made for a few steps."""
    if not settings.models or profile.default_steps > _FEW_STEPS:
        return
    for key, general, own, usual in (
        ("steps", settings.steps, listed.steps, profile.default_steps),
        (
            "guidance_scale",
            settings.guidance_scale if profile.heeds_guidance else None,
            listed.guidance_scale,
            profile.default_guidance_scale,
        ),
    ):
        if general is not None and own is None and general > usual:
            yield (
                f"{key} is {general} for all models, also for {listed.name}, which was made for "
                f"{usual}; set {key} for this model in [[models]]."
            )


def _scheduler(listed: ListedModel, profile: ModelProfile) -> SchedulerName:
    """Return the scheduler that the operator listed, if it fits the model, or else the model's."""
    chosen = listed.scheduler
    return chosen if chosen in profile.schedulers else profile.default_scheduler
