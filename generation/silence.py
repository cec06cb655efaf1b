"""A watch for signs of life that do not come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class SilenceWatch:
    """Calls `notice` once when nothing was heard for longer than `patience` says.

    `patience` returns seconds, or None while nothing is expected: then the watch ends until
    something is heard. It belongs to the event loop that runs when it is made.
    """

    def __init__(self, patience: Callable[[], float | None], notice: Callable[[], None]) -> None:
        self._patience = patience
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def heard(self) -> None:
        """Take note of a sign of life, or of something that should bring one."""
        self._heard = time.monotonic()
        if self._timer is None:
            # The first look finds out how long to wait for the next.
            self._timer = self._loop.call_later(0, self._look)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        patience = self._patience()
        if patience is None:
            return
        left = self._heard + patience - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._notice()
