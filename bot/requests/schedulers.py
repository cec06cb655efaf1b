"""What a person's choice of a scheduler and a spacing means for the model."""

from __future__ import annotations

from generation.catalog.profile import ModelProfile
from generation.errors import InvalidRequest
from generation.schedulers import fitting
from generation.schedulers.names import Named, matches, read
from generation.schedulers.registry import REGISTRY
from generation.values.request import GenerationRequest, SchedulerName, Spacing


class SchedulerChoices:
    """The schedulers that fit a model."""

    def __init__(self, profile: ModelProfile) -> None:
        self._profile = profile

    def suggest(self, typed: str) -> tuple[SchedulerName, ...]:
        """Return the schedulers that fit and whose names hold what was typed so far."""
        return tuple(name for name in self._profile.schedulers if matches(name, typed))

    def choose(
        self, typed: str | None, spacing: Spacing | None, *, default: SchedulerName
    ) -> Named:
        """Return the scheduler and the spacing that a person chose; without a choice the default.

        A spacing may also be a part of the scheduler's name, as in "DPM++ 2M Karras".

        Raises:
            InvalidRequest: there is no such scheduler.
        """
        if typed is None:
            return default, spacing
        named = read(typed)
        if named is None:
            raise InvalidRequest(
                "scheduler",
                f"There is no scheduler {typed!r}; choose one of "
                f"{', '.join(self._profile.schedulers)}.",
            )
        scheduler, own = named
        return scheduler, own if spacing is None else spacing

    def keep(
        self, scheduler: SchedulerName, spacing: Spacing | None, *, default: SchedulerName
    ) -> Named:
        """Return the choice for an older picture, as far as it fits the model of today."""
        if scheduler not in self._profile.schedulers:
            return default, None
        known = fitting.spacings_of(scheduler, self._profile.scheduler_config)
        return scheduler, spacing if spacing in known else None

    def steps(self, scheduler: SchedulerName, wanted: int) -> int:
        """Return `wanted` steps, or as many as the scheduler can take."""
        return min(wanted, REGISTRY[scheduler].most_steps)

    def check(self, request: GenerationRequest) -> None:
        """Check that the scheduler, the spacing and the steps of a request fit.

        Raises:
            InvalidRequest: they do not.
        """
        fitting.check(request, self._profile.scheduler_config)
