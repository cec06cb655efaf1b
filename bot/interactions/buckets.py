"""Token buckets: a rate limit that allows a burst at once and then a steady rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

# Part of a token. Sums of floating-point times are not exact.
_ROUNDING: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Policy:
    """A limit of `burst` tokens at once and `rate` tokens a second in the long run."""

    burst: float
    rate: float


class Buckets:
    """One bucket for each key, full at first.

    This is the generic cell rate algorithm (ITU-T I.371): a bucket is stored as the time at which
    it will be full again. Full buckets are dropped, so memory is bounded by the number of keys that
    were used within the time that fills a bucket.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        # In the order of their last use, so the first buckets are full first, or nearly so.
        self._full_at: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Hashable) -> bool:
        """Take a token out of a bucket and return True, or return False if it is empty."""
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
