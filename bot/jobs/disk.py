"""What happens when the data folder cannot be written.

A full disk is reported once. No new jobs are accepted, and accepted jobs wait until there is room.
The same happens for a folder that cannot be written, which the operator can fix, and for a
database that another program has locked, which will be free again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from storage.errors import PASSING, DatabaseBusy, DiskFull, FolderUnusable, StorageError
from storage.folder.space import Space

from ..backoff import backoff
from ..memory import PictureMemory

log = logging.getLogger(__name__)

T = TypeVar("T")
# In seconds, between two attempts to write.
_DELAYS: Final = (1, 2, 5, 10, 30)
# The most bytes of pictures that wait in memory, and at most half of the memory that others share.
_HELD_MAX: Final = 512 * 2**20
# Discord may be out of reach while the disk has room again.
_ON_WAIT_SECONDS: Final = 30.0


class DiskGuard:
    """Guards every write to the data folder.

    The log names a full disk once, however many requests fail on it, until a job is accepted again.
    """

    def __init__(self, space: Space, memory: PictureMemory | None = None) -> None:
        self._space = space
        self._memory = memory or PictureMemory(2 * _HELD_MAX)
        self._is_full = False
        self._unusable: set[str] = set()
        # How often the disk looked writable since pictures were last stored.
        self._resumptions = 0
        self._closing = asyncio.Event()

    async def admit(self, write: Callable[[], Awaitable[T]]) -> T:
        """Return what `write` returns, if the disk has room for it and for the pictures after it.

        Raises:
            DiskFull: the disk has too little room.
            FolderUnusable: the data folder cannot be written.
        """
        with self.report_failures():
            await asyncio.to_thread(self._space.check)
            result = await write()
        if self._is_full:
            self._is_full = False
            log.warning("There is room on the disk again, and jobs are accepted")
        return result

    @contextlib.contextmanager
    def report_failures(self) -> Iterator[None]:
        """Log storage errors and re-raise them; log a full disk only once."""
        try:
            yield
        except DatabaseBusy as error:
            log.warning("%s", error)
            raise
        except DiskFull as error:
            if not self._is_full:
                self._is_full = True
                log.error("No more jobs are accepted. %s", error)
            raise

    async def retry(
        self,
        write: Callable[[], Awaitable[T]],
        *,
        held: int = 0,
        on_wait: Callable[[], Awaitable[None]] | None = None,
        passing: tuple[type[StorageError], ...] = PASSING,
    ) -> T:
        """Return what `write` returns; retry it while it raises one of the `passing` errors.

        `held` is the number of bytes of pictures that stay in memory during the retries. `on_wait`
        tells the person that the job waits for room. It is awaited once, before the first delay.

        All waiting jobs together may hold a limited number of bytes. A job above the limit gets
        one attempt. Its pictures are made again after `wait_until_writable`: on a disk that stays
        nearly full, the engine would otherwise make the same pictures again and again.

        Raises:
            DiskFull: the disk is full, and the bot stops or the memory limit is reached.
            DatabaseBusy: the same for a locked database.
            FolderUnusable: the same for a folder, if that error is `passing`.
        """
        self._memory.count(self, held)
        unusable: set[str] = set()
        delays = backoff(_DELAYS)
        try:
            while True:
                try:
                    with self.report_failures():
                        result = await write()
                    self._unusable -= unusable
                    self._resumptions = 0 if held else self._resumptions
                    return result
                except passing as error:
                    if isinstance(error, FolderUnusable):
                        unusable.add(str(error))
                        self._report_folder(error)
                    if on_wait is not None and not isinstance(error, DatabaseBusy):
                        await _call_in_time(on_wait)
                        on_wait = None
                    if self._closing.is_set() or self._is_too_much():
                        raise
                await self._closes_within(next(delays))
        finally:
            self._memory.count(self, -held)

    def _is_too_much(self) -> bool:
        return self._memory.held_by(self) > min(_HELD_MAX, self._memory.limit // 2)

    def _report_folder(self, error: FolderUnusable) -> None:
        """Log an unusable folder once, until it is usable again."""
        if str(error) not in self._unusable:
            self._unusable.add(str(error))
            log.error("Accepted jobs wait. %s", error)

    async def wait_until_writable(self) -> bool:
        """Wait until new jobs would be accepted; return False if the bot stops first.

        Each call begins with a longer delay until pictures are stored: a disk with room for a job
        need not have room for its pictures.
        """
        delays = backoff(_DELAYS[min(self._resumptions, len(_DELAYS) - 1) :])
        self._resumptions += 1
        while not await self._closes_within(next(delays)):
            with contextlib.suppress(StorageError):
                await asyncio.to_thread(self._space.check)
                return True
        return False

    async def _closes_within(self, seconds: float) -> bool:
        """Wait so long, or until `close`; return whether `close` was called."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return self._closing.is_set()

    def close(self) -> None:
        """Let every retry make one more attempt and then give up."""
        self._closing.set()


async def _call_in_time(on_wait: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ON_WAIT_SECONDS):
            await on_wait()
