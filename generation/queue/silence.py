"""A watch for signs of life that do not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class SilenceWatch:
    """Calls `notice` once when nothing was heard for as long as `patience` says.

    `patience` returns seconds, or None while nothing is expected: then silence is no news. It
    belongs to the event loop that runs when it is made.
    """

    def __init__(self, patience: Callable[[], float | None], notice: Callable[[], None]) -> None:
        self._patience = patience
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def heard(self) -> None:
        """Take note of a sign of life, or of something that should bring one."""
        self.stop()
        if (patience := self._patience()) is not None:
            self._timer = self._loop.call_later(patience, self._is_over)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_over(self) -> None:
        self._timer = None
        if self._patience() is not None:
            self._notice()
