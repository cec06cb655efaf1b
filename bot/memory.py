"""What holds pictures in memory, kept within one bound and shared fairly among people."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

# Beside what the bot needs itself, about 90 MB, and what the allocator keeps of what was freed.
PICTURE_BYTES: Final = 64 * 2**20
# Of files from outside, which may come slowly; while one is read it is there twice.
UPLOAD_BYTES: Final = 24 * 2**20
# Of one person at most this part, so that others have theirs at once.
_OWNERS_PART: Final = 4


@dataclass(slots=True, eq=False)
class _Request:
    size: int
    arrival: int
    granted: asyncio.Future[None]


class PictureMemory:
    """At most `limit` bytes of pictures at one time, whatever they are held for.

    Those who wait get their turn by who holds the least, then by who came first. What is larger
    than all there is, or than an owner's part, has its turn when nobody else has one, or when that
    owner has none.
    """

    def __init__(self, limit: int = PICTURE_BYTES) -> None:
        self.limit = limit
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[_Request]] = {}
        self._arrivals = itertools.count()
        # How many hold what they waited for. What is only counted may stay for hours.
        self._granted = 0

    @property
    def held(self) -> int:
        """Return how many bytes are held."""
        return self._held.total()

    @asynccontextmanager
    async def hold(self, expected: int, owner: Hashable) -> AsyncIterator[None]:
        """Wait until `expected` bytes may be held for `owner`, and count them until the end.

        Nobody may wait for more while they hold some: two who did could wait for each other.
        """
        request = _Request(
            expected, next(self._arrivals), asyncio.get_running_loop().create_future()
        )
        self._waiting.setdefault(owner, deque()).append(request)
        self._grant()
        try:
            await request.granted
            yield
        finally:
            if request.granted.cancelled():
                self._forget(owner, request)
                self._grant()
            else:
                self._granted -= 1
                self.count(owner, -expected)

    def held_by(self, owner: Hashable) -> int:
        """Return how many bytes are held for `owner`."""
        return self._held[owner]

    def count(self, owner: Hashable, size: int) -> None:
        """Count `size` bytes that are held already, below zero for bytes that are not any more."""
        self._held[owner] += size
        if not self._held[owner]:
            del self._held[owner]
        self._grant()

    def _grant(self) -> None:
        while (first := self._first()) is not None:
            owner, request = first
            # Those behind wait as well, or what is large would wait for ever.
            if self._granted and self.held + request.size > self.limit:
                return
            self._forget(owner, request)
            if not request.granted.done():
                request.granted.set_result(None)
                self._granted += 1
                self._held[owner] += request.size

    def _first(self) -> tuple[Hashable, _Request] | None:
        """Return whose turn it is among those who have not used up their part."""
        heads = (
            (self._held[owner], requests[0].arrival, owner, requests[0])
            for owner, requests in self._waiting.items()
            if not self._held[owner]
            or self._held[owner] + requests[0].size <= self.limit // _OWNERS_PART
        )
        first = min(heads, default=None, key=lambda head: head[:2])
        return None if first is None else (first[2], first[3])

    def _forget(self, owner: Hashable, request: _Request) -> None:
        """Have a request wait no longer, if it still does."""
        requests = self._waiting.get(owner, deque())
        if request in requests:
            requests.remove(request)
            if not requests:
                del self._waiting[owner]
