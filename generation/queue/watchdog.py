"""A timer that notices when the engine is silent for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls `on_silence` once when `reset` was not called for `limit()` seconds.

    `limit` returns None while no answer is expected. The watchdog belongs to the event loop that
    runs when it is made.
    """

    def __init__(self, limit: Callable[[], float | None], on_silence: Callable[[], None]) -> None:
        self._limit = limit
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def reset(self) -> None:
        """Start the time again: the engine answered, or was given work."""
        self.stop()
        if (limit := self._limit()) is not None:
            self._timer = self._loop.call_later(limit, self._expire)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self._limit() is not None:
            self._on_silence()
