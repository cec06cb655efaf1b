"""One limit on the memory that pictures take, shared fairly among people."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

# Beside the 90 MB or so of the bot itself, and freed memory that the allocator keeps.
PICTURE_BYTES: Final = 64 * 2**20
# For uploads, which may arrive slowly; a file is in memory twice while it is decoded.
UPLOAD_BYTES: Final = 24 * 2**20
# One owner gets at most the limit divided by this, so that others need not wait.
_OWNER_DIVISOR: Final = 4


@dataclass(slots=True, eq=False)
class _Request:
    size: int
    arrival: int
    granted: asyncio.Future[None]


class PictureMemory:
    """Grants at most `limit` bytes of pictures at one time, for any purpose.

    The owner who holds the least is served first, then the request that came first. A request
    above the limit is granted when no other is; a request above an owner's share is granted when
    that owner holds nothing.
    """

    def __init__(self, limit: int = PICTURE_BYTES) -> None:
        self.limit = limit
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[_Request]] = {}
        self._arrivals = itertools.count()
        # How many requests are granted. Bytes that are only counted may stay for hours.
        self._granted = 0

    @property
    def held(self) -> int:
        """Return how many bytes are held."""
        return self._held.total()

    @asynccontextmanager
    async def hold(self, expected: int, owner: Hashable) -> AsyncIterator[None]:
        """Wait until `expected` bytes may be held for `owner`; hold them inside the context.

        Never call this while holding bytes: two callers could wait for each other.
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
                self._drop(owner, request)
                self._grant()
            else:
                self._granted -= 1
                self.count(owner, -expected)

    def held_by(self, owner: Hashable) -> int:
        """Return how many bytes are held for `owner`."""
        return self._held[owner]

    def count(self, owner: Hashable, size: int) -> None:
        """Count `size` bytes that are held without a request; a negative `size` frees bytes."""
        self._held[owner] += size
        if not self._held[owner]:
            del self._held[owner]
        self._grant()

    def _grant(self) -> None:
        while (first := self._first()) is not None:
            owner, request = first
            # Smaller requests behind it wait too, or a large request would wait for ever.
            if self._granted and self.held + request.size > self.limit:
                return
            self._drop(owner, request)
            if not request.granted.done():
                request.granted.set_result(None)
                self._granted += 1
                self._held[owner] += request.size

    def _first(self) -> tuple[Hashable, _Request] | None:
        """Return the next request of the owners who have not used up their share."""
        heads = (
            (self._held[owner], requests[0].arrival, owner, requests[0])
            for owner, requests in self._waiting.items()
            if not self._held[owner]
            or self._held[owner] + requests[0].size <= self.limit // _OWNER_DIVISOR
        )
        first = min(heads, default=None, key=lambda head: head[:2])
        return None if first is None else (first[2], first[3])

    def _drop(self, owner: Hashable, request: _Request) -> None:
        """Take a request out of the line, if it still waits."""
        requests = self._waiting.get(owner, deque())
        if request in requests:
            requests.remove(request)
            if not requests:
                del self._waiting[owner]
