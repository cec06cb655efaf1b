"""diffusers' linear multistep scheduler, with its coefficients cached."""

from __future__ import annotations

from typing import Any, Self

from diffusers import LMSDiscreteScheduler


class LMSScheduler(LMSDiscreteScheduler):  # type: ignore[misc]  # diffusers has no types
    """diffusers' scheduler, which integrates each coefficient once for a schedule.

    The integrals depend on the schedule alone. At a millisecond each they are a good part of a step
    on a fast device. Copies of a scheduler share the coefficients, and start without history.
    """

    def __copy__(self) -> Self:
        own = type(self).__new__(type(self))
        own.__dict__.update(self.__dict__)
        own.derivatives = []
        return own

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Make a schedule, for which no coefficient is known yet."""
        super().set_timesteps(*args, **kwargs)
        self._coefficients: dict[tuple[int, int, int], float] = {}

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """Return the weight of a derivative in a step, from the cache if it is known."""
        key = (order, int(t), current_order)
        if key not in self._coefficients:
            self._coefficients[key] = super().get_lms_coefficient(order, t, current_order)
        return self._coefficients[key]
