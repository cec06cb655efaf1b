"""Tasks that outlive the event they were started in."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """Keeps tasks alive until they are done, and logs what goes wrong in them.

    They start from an empty context: a job outlives the interaction that asked for it, and
    discord.py keeps that interaction's webhook adapter in a context variable.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work`; `name` says what it is about in the log."""
        task = contextvars.Context().run(asyncio.create_task, work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)

    async def close(self, *, patience: float = 0.0) -> None:
        """Wait `patience` seconds for what is running to end by itself, then cancel the rest."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=patience)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("Could not %s", task.get_name(), exc_info=error)
