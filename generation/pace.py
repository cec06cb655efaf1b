"""What steps and decoding take on the device at hand: plain numbers, measured by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The seconds of calls for pictures of `pixels` pixels, by the number of rows or pictures."""

    pixels: int
    step_seconds: Mapping[int, float]
    decode_seconds: Mapping[int, float]

    @property
    def rows(self) -> int:
        """Return how many rows of that size share one UNet call at most."""
        return max(self.step_seconds)
