"""Timers on the event loop: one notices a silent engine, one bundles refreshes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

# A refresh of a long queue takes the event loop milliseconds. So with more than so many waiting
# jobs, refreshes are at least so many seconds apart; nobody would see the difference.
_LONG_QUEUE: Final = 100
_REFRESH_SECONDS: Final = 0.25


class Watchdog:
    """Calls `on_silence` once when `reset` was not called for `limit()` seconds.

    `limit` returns None while no answer is expected.
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


class RefreshTimer:
    """Calls `refresh` soon after a request, once for all requests until then.

    `count_waiting` returns how many jobs wait: a long queue is refreshed less often.
    """

    def __init__(self, refresh: Callable[[], None], count_waiting: Callable[[], int]) -> None:
        self._refresh = refresh
        self._count_waiting = count_waiting
        self._loop = asyncio.get_running_loop()
        self._refreshed = 0.0
        self._pending: asyncio.Handle | None = None
        self._is_stopped = False

    @property
    def age(self) -> float:
        """Return how many seconds ago the last refresh was."""
        return time.monotonic() - self._refreshed

    def request(self) -> None:
        """Have `refresh` called soon."""
        if self._is_stopped or self._pending is not None:
            return
        if self._count_waiting() <= _LONG_QUEUE:
            self._pending = self._loop.call_soon(self._run)
        else:
            delay = max(0.0, _REFRESH_SECONDS - self.age)
            self._pending = self._loop.call_later(delay, self._run)

    def stop(self) -> None:
        """Call `refresh` no more."""
        self._is_stopped = True
        if self._pending is not None:
            self._pending.cancel()

    def _run(self) -> None:
        self._pending = None
        self._refresh()
        self._refreshed = time.monotonic()
