"""Trouble on the way: requests that are answered wrongly, late or not at all."""

from __future__ import annotations

import asyncio
import fnmatch
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .errors import NeverHappened


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the API; a `body` of None is an empty one, and a status of 0 a cut line."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Serve = Callable[[], Reply]
CUT = Reply(0)


def rate_limited(retry_after: float) -> Reply:
    """Return a 429 as Discord words it; discord.py takes one without `Via` for a ban."""
    return Reply(
        429,
        {"message": "You are being rate limited.", "retry_after": retry_after, "global": False},
        {"Retry-After": str(retry_after), "Via": "1.1 google", "X-RateLimit-Scope": "user"},
    )


@dataclass(slots=True)
class _Trouble:
    """What befalls the next `times` requests that fit; `path` is a pattern of `fnmatch`.

    With `carried_out` Discord does what it was asked, and only the answer suffers; with
    `containing` only requests whose JSON holds these words fit.
    """

    method: str
    path: str
    times: int
    carried_out: bool
    containing: str
    hits: int = 0

    def fits(self, method: str, path: str, body: Any) -> bool:
        return (
            self.hits < self.times
            and self.method in (method, "*")
            and fnmatch.fnmatchcase(path, self.path)
            and self.containing in json.dumps(body, ensure_ascii=False)
        )


@dataclass(slots=True)
class Fault(_Trouble):
    """Answers with `status` instead; None cuts the connection.

    Only Discord itself knows a `code`; None stands for the web page of a proxy on the way.
    """

    status: int | None = 500
    code: int | None = 0
    retry_after: float = 1.0

    async def around(self, serve: Serve, _: web.Request) -> Reply:
        """Return the wrong answer."""
        if self.carried_out:
            serve()
        if self.status is None:
            return CUT
        if self.status == 429:
            return rate_limited(self.retry_after)
        if self.code is None:
            return Reply(self.status, b"<html>Nothing here</html>", {"Content-Type": "text/html"})
        return Reply(self.status, {"message": "Injected by the test", "code": self.code})


@dataclass(slots=True)
class Hold(_Trouble):
    """Keeps requests waiting until the test lets go, so that it can act in the middle."""

    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def around(self, serve: Serve, request: web.Request) -> Reply:
        """Return the right answer, late; a client that has gone meanwhile asked for nothing."""
        done = serve() if self.carried_out else None
        self._reached.set()
        await self._released.wait()
        if done is not None:
            return done
        gone = request.transport is None or request.transport.is_closing()
        return CUT if gone else serve()

    async def reached(self, *, within: float = 10.0) -> None:
        """Wait until a request is being held.

        Raises:
            NeverHappened: none came.
        """
        try:
            await asyncio.wait_for(self._reached.wait(), within)
        except TimeoutError:
            raise NeverHappened(f"{self.method} {self.path}", within) from None

    def release(self) -> None:
        """Let the held requests, and all that follow, go on."""
        self._released.set()
        self.times = self.hits


class Troubles:
    """All the trouble that a test has ordered, the oldest first."""

    def __init__(self) -> None:
        self._ordered: list[Fault | Hold] = []

    def order(self, trouble: Fault | Hold) -> None:
        """Add some."""
        self._ordered.append(trouble)

    def strike(self, method: str, path: str, body: Any) -> Fault | Hold | None:
        """Return what befalls this request, and count it."""
        for trouble in self._ordered:
            if trouble.fits(method, path, body):
                trouble.hits += 1
                return trouble
        return None

    def release_all(self) -> None:
        """Let go of every request that is still held."""
        for trouble in self._ordered:
            if isinstance(trouble, Hold):
                trouble.release()
