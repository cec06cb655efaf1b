"""Limits on the work for one person at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import StillAtWork

T = TypeVar("T")


class AtWork:
    """Allows a person at most `most` pieces of work at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: Counter[Hashable] = Counter()

    @contextmanager
    def one_for(self, person: Hashable) -> Iterator[None]:
        """Count one more piece of work for a person until the block ends.

        Raises:
            StillAtWork: the person has reached the limit.
        """
        if self._begun[person] >= self._most:
            raise StillAtWork(self._most)
        self._begun[person] += 1
        try:
            yield
        finally:
            self._begun[person] -= 1
            if not self._begun[person]:
                del self._begun[person]


@dataclass(slots=True)
class _Line:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    newest: int = 0
    asking: int = 0


class NewestOnly:
    """Does one piece of work for a person at a time, and skips all that wait but the newest."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}

    async def do(self, person: Hashable, work: Callable[[], Awaitable[T]]) -> T | None:
        """Return what `work` returns, or None if newer work arrived before its turn."""
        line = self._lines.setdefault(person, _Line())
        line.newest += 1
        line.asking += 1
        number = line.newest
        try:
            async with line.lock:
                return await work() if number == line.newest else None
        finally:
            line.asking -= 1
            if not line.asking:
                del self._lines[person]
