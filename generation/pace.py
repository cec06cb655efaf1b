"""What steps and decoding take on the device at hand: plain numbers, measured by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# The share of the best rate of rows that is good enough: beyond it, all only wait for longer.
_PAYS: Final = 0.85
# Four pictures with guidance.
_SHARED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The seconds of calls for pictures of `pixels` pixels, by the number of rows or pictures.

    There is every number that fits the memory and the time for one call, whether it pays or not.
    """

    pixels: int
    step_seconds: Mapping[int, float]
    decode_seconds: Mapping[int, float]

    @property
    def rows(self) -> int:
        """Return for how many rows of that size jobs are taken up to share their steps.

        It is the least number that brings nearly as many rows a second as the best one: more
        would not be done sooner, and all would wait longer for a step. But it is eight, or what
        fits below that, if fewer look as good. The numbers are measured once, while the model
        is loaded, and on a busy machine one bad measurement could make all people queue for an
        engine of one row until the next start. To share steps in vain costs little by comparison.
        """
        rates = {rows: rows / seconds for rows, seconds in self.step_seconds.items()}
        paying = min(rows for rows, rate in rates.items() if rate >= _PAYS * max(rates.values()))
        return max(paying, max((rows for rows in rates if rows <= _SHARED), default=paying))
