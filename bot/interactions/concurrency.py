"""Limits on the work for one person at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import ConcurrencyLimitReached

T = TypeVar("T")


class ConcurrencyLimit:
    """Allows a person at most `most` pieces of work at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[Hashable] = Counter()

    @contextmanager
    def slot_for(self, person: Hashable) -> Iterator[None]:
        """Count one more piece of work for a person until the block ends.

        Raises:
            ConcurrencyLimitReached: the person has reached the limit.
        """
        if self._running[person] >= self._most:
            raise ConcurrencyLimitReached(self._most)
        self._running[person] += 1
        try:
            yield
        finally:
            self._running[person] -= 1
            if not self._running[person]:
                del self._running[person]


@dataclass(slots=True)
class _Waiters:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    newest: int = 0
    count: int = 0


class NewestOnly:
    """Does one piece of work for a person at a time, and skips all that wait but the newest."""

    def __init__(self) -> None:
        self._waiters: dict[Hashable, _Waiters] = {}

    async def do(self, person: Hashable, work: Callable[[], Awaitable[T]]) -> T | None:
        """Return what `work` returns, or None if newer work arrived before its turn."""
        waiters = self._waiters.setdefault(person, _Waiters())
        waiters.newest += 1
        waiters.count += 1
        number = waiters.newest
        try:
            async with waiters.lock:
                return await work() if number == waiters.newest else None
        finally:
            waiters.count -= 1
            if not waiters.count:
                del self._waiters[person]
