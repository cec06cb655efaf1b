"""Requests that are repeated for as long as it makes sense, at a pace that Discord bears."""

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

from ..jobs.courier import MessageGone, Unanswered, Undeliverable
from .codes import CLOSED, FAULTS, Course, Refusal, refusal_of

log = logging.getLogger(__name__)

T = TypeVar("T")
# At the usual pauses that is a good hour, and for what is less important some minutes.
TRIES: Final = 24
FEW_TRIES: Final = 10
_NO_ANSWER: Final = (
    "Discord gives no answer that makes sense for this message; ask for it again later."
)
# Discord shuts out an address for an hour that made 10,000 invalid requests in ten minutes.
_INVALID: Final = frozenset({401, 403, 429})
_WINDOW_SECONDS: Final = 600.0
_INVALID_MAX: Final = 2_000


class InvalidRequests:
    """Counts the requests that Discord refused, all over the bot, to stay far below its limit.

    Of the 10,000 in ten minutes that cost the connection, at most `most` are spent.
    """

    def __init__(self, most: int = _INVALID_MAX) -> None:
        self._most = most
        self._times: deque[float] = deque()

    def trace(self) -> aiohttp.TraceConfig:
        """Return what counts the answers of an HTTP session."""
        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._ended)
        return config

    async def _ended(
        self, _session: Any, _context: SimpleNamespace, ended: aiohttp.TraceRequestEndParams
    ) -> None:
        self.note(ended.response.status)

    def note(self, status: int) -> None:
        """Count an answer, if it is of the kind that Discord counts."""
        if status in _INVALID:
            self._times.append(time.monotonic())

    @property
    def is_spent(self) -> bool:
        """Whether nothing should be asked now that may be refused."""
        while self._times and time.monotonic() - self._times[0] > _WINDOW_SECONDS:
            self._times.popleft()
        return len(self._times) >= self._most

    async def turn(self) -> None:
        """Wait until something may be asked that may be refused."""
        while self.is_spent:
            log.warning("Discord has refused %s requests in ten minutes; waiting", self._most)
            await asyncio.sleep(self._times[0] + _WINDOW_SECONDS - time.monotonic() + 1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes: how it is known to be there, and how its thread is opened.

    `exists` returns None where that cannot be found out; `open` is None where it was tried.
    """

    exists: Callable[[], Awaitable[bool | None]]
    open: Callable[[], Awaitable[None]] | None = None


class Retry:
    """Repeats requests until they succeed or it is certain that they cannot.

    discord.py itself waits out rate limits and repeats a 5xx a few times; this goes on where it
    gives up. `pauses` returns the seconds between two tries, without an end.
    """

    def __init__(self, pauses: Callable[[], Iterator[float]], invalid: InvalidRequests) -> None:
        self._pauses = pauses
        self._invalid = invalid

    async def insist(
        self, attempt: Callable[[], Awaitable[T]], place: Place, *, tries: int = TRIES
    ) -> T:
        """Return what `attempt` returns; `tries` bounds what nobody knows the meaning of.

        Raises:
            MessageGone: Discord said so twice.
            Undeliverable: Discord refuses it for a reason of its own.
            Unanswered: the answers make no sense, for all those tries.
        """
        pursuit = _Pursuit(self, place, tries)
        for pause in self._pauses():
            await self._invalid.turn()
            try:
                return await attempt()
            except FAULTS as error:
                refusal = refusal_of(error)
                if await pursuit.goes_on_at_once(error, refusal):
                    continue
                least = max(pause, refusal.pause)
                # Its words only: the error itself holds the frames with the pictures.
                words = str(error) or type(error).__name__
                log.warning("Discord: %s; trying again in %.0f s", words, least)
            # Not all at the same instant, after an outage that met many.
            await asyncio.sleep(least * random.uniform(0.8, 1.2))  # noqa: S311 -- no secret
        raise AssertionError("the pauses never end")


class _Pursuit:
    """What one request has met so far."""

    def __init__(self, retry: Retry, place: Place, tries: int) -> None:
        self._retry = retry
        self._place = place
        self._tries = tries
        self._unproven = 0
        self._said_gone = 0

    async def goes_on_at_once(self, error: Exception, refusal: Refusal) -> bool:
        """Return whether the next try needs no pause; raise what makes it useless."""
        if refusal.course is Course.WAIT:
            return False
        if refusal.course is Course.ARCHIVED and self._place.open is not None:
            await self._open(self._place.open)
            return True
        if refusal.course is Course.GONE:
            await self._confirm(error)
        elif refusal.course not in (Course.UNPROVEN, Course.EXPIRED):
            raise Undeliverable(refusal.sentence) from error
        self._unproven += 1
        if self._unproven >= self._tries:
            raise Unanswered(_NO_ANSWER) from error
        return False

    async def _confirm(self, error: Exception) -> None:
        """Raise MessageGone if it is certain; one answer may be wrong, even Discord's own."""
        self._said_gone += 1
        exists = await self._place.exists()
        if exists is False or (exists is None and self._said_gone > 1):
            raise MessageGone(str(error)) from error

    async def _open(self, opening: Callable[[], Awaitable[None]]) -> None:
        self._place = Place(self._place.exists)
        try:
            await self._retry.insist(opening, self._place, tries=self._tries)
        except Unanswered:
            raise
        except Undeliverable as error:
            raise Undeliverable(CLOSED) from error
