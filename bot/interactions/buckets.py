"""Token buckets: how often somebody may do something, a burst at once and then at a rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

# A part of a token: sums of times are not exact.
_ROUNDING: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Policy:
    """`burst` at once, and `rate` a second in the long run."""

    burst: float
    rate: float


class Buckets:
    """One bucket a key, each full at first.

    It is the generic cell rate algorithm (ITU-T I.371): of a bucket no more is kept than when it
    will be full again. Full ones are forgotten, so there are never more than keys were seen in the
    time that it takes to fill one.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        # In the order of their last use: none that was used later can be full much earlier.
        self._full_at: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Hashable) -> bool:
        """Take a token out of a bucket; return False, and take none, if it is empty."""
        now = self._clock()
        self._forget_full(now)
        full_at = max(now, self._full_at.get(key, now)) + 1 / self._policy.rate
        if full_at - now > (self._policy.burst + _ROUNDING) / self._policy.rate:
            return False
        self._full_at.pop(key, None)
        self._full_at[key] = full_at
        return True

    def _forget_full(self, now: float) -> None:
        while self._full_at:
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now:
                return
            del self._full_at[oldest]
