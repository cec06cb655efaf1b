"""Requests to Discord that are retried, and the limit on requests that Discord refuses."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import aiohttp

from ..backoff import backoff
from ..jobs.courier_protocol import MessageGone, Unanswered, Undeliverable
from .codes import CLOSED, FAULTS, Refusal, RefusalKind, refusal_of

log = logging.getLogger(__name__)

T = TypeVar("T")
# In seconds, between two attempts.
_DELAYS: Final = (1, 2, 5, 10, 20, 40, 60, 120, 300)
# With these delays about an hour, and some minutes for what is less important.
ATTEMPTS: Final = 24
FEW_ATTEMPTS: Final = 10
_NO_ANSWER: Final = (
    "Discord gives no answer that makes sense for this message; ask for it again later."
)
# Discord blocks an address for an hour after 10,000 invalid requests in ten minutes.
_INVALID: Final = frozenset({401, 403, 429})
_WINDOW_SECONDS: Final = 600.0
_INVALID_MAX: Final = 2_000


class InvalidRequests:
    """Counts the requests of the whole bot that Discord refused, to stay far below its limit.

    Discord allows 10,000 in ten minutes; the bot allows itself `limit`.
    """

    def __init__(self, limit: int = _INVALID_MAX) -> None:
        self._limit = limit
        self._times: deque[float] = deque()

    def trace(self) -> aiohttp.TraceConfig:
        """Return a trace that counts the answers of an HTTP session."""
        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._on_request_end)
        return config

    async def _on_request_end(
        self, _session: Any, _context: SimpleNamespace, ended: aiohttp.TraceRequestEndParams
    ) -> None:
        self.count(ended.response.status)

    def count(self, status: int) -> None:
        """Count an answer, if Discord counts its status as an invalid request."""
        if status in _INVALID:
            self._times.append(time.monotonic())

    @property
    def is_spent(self) -> bool:
        """Whether no request may be sent now that Discord could refuse."""
        while self._times and time.monotonic() - self._times[0] > _WINDOW_SECONDS:
            self._times.popleft()
        return len(self._times) >= self._limit

    async def wait_for_budget(self) -> None:
        """Wait until a request may be sent that Discord could refuse."""
        while self.is_spent:
            log.warning("Discord has refused %s requests in ten minutes; waiting", self._limit)
            await asyncio.sleep(self._times[0] + _WINDOW_SECONDS - time.monotonic() + 1)


@dataclass(frozen=True, slots=True)
class Target:
    """The message, channel or server that a request is about.

    `exists` asks Discord whether the target is there; None means that Discord does not say.
    `open` opens the archived thread of the target; None means that there is nothing to open.
    """

    exists: Callable[[], Awaitable[bool | None]]
    open: Callable[[], Awaitable[None]] | None = None


def default_delays() -> Iterator[float]:
    """Yield the seconds to wait between two attempts, without end."""
    return backoff(_DELAYS)


class Retry:
    """Retries requests until they succeed or certainly never will.

    discord.py itself waits for rate limits and retries a 5xx a few times; `Retry` goes on where
    discord.py gives up. `delays` yields the seconds between two attempts, without end.
    """

    def __init__(
        self, invalid: InvalidRequests, delays: Callable[[], Iterator[float]] = default_delays
    ) -> None:
        self._invalid = invalid
        self._delays = delays

    async def run(
        self,
        attempt: Callable[[], Awaitable[T]],
        target: Target,
        *,
        max_unproven: int = ATTEMPTS,
    ) -> T:
        """Return what `attempt` returns.

        `max_unproven` limits the attempts whose answers prove nothing; others are not limited.

        Raises:
            MessageGone: Discord said twice that the target is gone.
            Undeliverable: Discord refuses the request for a reason of its own.
            Unanswered: `max_unproven` answers made no sense.
        """
        history = _Attempts(self, target, max_unproven)
        delays = self._delays()
        while True:
            await self._invalid.wait_for_budget()
            delay = next(delays)
            try:
                return await attempt()
            except FAULTS as error:
                refusal = refusal_of(error)
                if await history.may_retry_at_once(error, refusal):
                    continue
                delay = max(delay, refusal.pause)
                # The text only: the error itself refers to frames that hold the pictures.
                text = str(error) or type(error).__name__
                log.warning("Discord: %s; trying again in %.0f s", text, delay)
            # A random part spreads the retries of many requests after an outage.
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 -- no secret


class _Attempts:
    """The failed attempts at one request so far."""

    def __init__(self, retry: Retry, target: Target, max_unproven: int) -> None:
        self._retry = retry
        self._target = target
        self._max_unproven = max_unproven
        self._unproven = 0
        self._gone_answers = 0

    async def may_retry_at_once(self, error: Exception, refusal: Refusal) -> bool:
        """Return whether the next attempt needs no delay; raise if no attempt can succeed."""
        if refusal.kind is RefusalKind.WAIT:
            return False
        if refusal.kind is RefusalKind.ARCHIVED and self._target.open is not None:
            await self._open(self._target.open)
            return True
        if refusal.kind is RefusalKind.GONE:
            await self._check_gone(error)
        elif refusal.kind not in (RefusalKind.UNPROVEN, RefusalKind.EXPIRED):
            raise Undeliverable(refusal.sentence) from error
        self._unproven += 1
        if self._unproven >= self._max_unproven:
            raise Unanswered(_NO_ANSWER) from error
        return False

    async def _check_gone(self, error: Exception) -> None:
        """Raise MessageGone if that is certain; a single answer of Discord may be wrong."""
        self._gone_answers += 1
        exists = await self._target.exists()
        if exists is False or (exists is None and self._gone_answers > 1):
            raise MessageGone(str(error)) from error

    async def _open(self, open_thread: Callable[[], Awaitable[None]]) -> None:
        self._target = Target(self._target.exists)
        try:
            await self._retry.run(open_thread, self._target, max_unproven=self._max_unproven)
        except Unanswered:
            raise
        except Undeliverable as error:
            raise Undeliverable(CLOSED) from error
