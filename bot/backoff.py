"""Backoff: how long to wait between the attempts at something that fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def backoff(delays: Sequence[float]) -> Iterator[float]:
    """Yield each of `delays` in order, and then the last one again and again.

    Raises:
        IndexError: there are no delays.
    """
    yield from delays
    while True:
        yield delays[-1]
