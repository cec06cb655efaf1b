"""Tasks that outlive the event that started them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """Keeps tasks alive until they are done, and logs their errors.

    A task starts with an empty context. A job outlives the interaction that asked for it, and
    discord.py keeps the webhook adapter of that interaction in a context variable.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in a task; the log says that the bot could not `name` if it fails."""
        task = contextvars.Context().run(asyncio.create_task, work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)

    async def close(self, *, patience: float = 0.0) -> None:
        """Wait `patience` seconds for the tasks to end, then cancel the others."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=patience)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("Could not %s", task.get_name(), exc_info=error)
