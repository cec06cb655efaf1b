"""A full disk: it is said once, nothing new is accepted, and what was accepted waits for room.

So does what meets a folder that cannot be written, which the operator can fix, or a database that
another program holds, which will be free again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from storage.errors import PASSING, DatabaseBusy, DiskFull, FolderUnusable, StorageError
from storage.folder.space import Space

from ..memory import PictureMemory

log = logging.getLogger(__name__)

T = TypeVar("T")
_PAUSES: Final = (1, 2, 5, 10, 30)
# So many bytes of pictures wait in memory at most, and of what others share no more than half.
_HELD_MAX: Final = 512 * 2**20
# Discord may be out of reach while there is room again.
_TELL_SECONDS: Final = 30.0


class DiskGuard:
    """Stands before everything that is written to the data folder.

    The operator reads of a full disk once, however many requests meet it, until a job is
    accepted again.
    """

    def __init__(self, space: Space, memory: PictureMemory | None = None) -> None:
        self._space = space
        self._memory = memory or PictureMemory(2 * _HELD_MAX)
        self._is_full = False
        self._unusable: set[str] = set()
        self._returned = 0
        self._closing = asyncio.Event()

    async def admit(self, write: Callable[[], Awaitable[T]]) -> T:
        """Return what `write` returns, if there is room for it and what comes of it.

        Raises:
            DiskFull: there is not.
            FolderUnusable: nothing can be written there.
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
        """Tell the operator of what is met inside, of a full disk unless they know; let it pass."""
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
        """Return what `write` returns, trying again while it meets what is `passing`.

        `held` is how many bytes of pictures are kept in memory for it meanwhile; `on_wait`, which
        says that it has to wait for room, is awaited once, before it waits or gives up.

        All that is held together is bounded: what would be too much gives up after one attempt.
        The pictures of such a job are made again, but not before `wait_until_writable`. On a disk
        that stays nearly full the engine would else make the same pictures again and again.

        Raises:
            DiskFull: it still is, and the bot stops or may not hold that much in memory.
            DatabaseBusy: the same of a locked database.
            FolderUnusable: the same of a folder, if that is `passing`.
        """
        self._memory.count(self, held)
        met: set[str] = set()
        try:
            for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
                try:
                    with self.report_failures():
                        result = await write()
                    self._unusable -= met
                    self._returned = 0 if held else self._returned
                    return result
                except passing as error:
                    if isinstance(error, FolderUnusable):
                        met.add(str(error))
                        self._say(error)
                    if on_wait is not None and not isinstance(error, DatabaseBusy):
                        await _tell(on_wait)
                        on_wait = None
                    if self._closing.is_set() or self._is_too_much():
                        raise
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
        finally:
            self._memory.count(self, -held)
        raise AssertionError("the pauses never end")

    def _is_too_much(self) -> bool:
        return self._memory.held_by(self) > min(_HELD_MAX, self._memory.limit // 2)

    def _say(self, error: FolderUnusable) -> None:
        """Tell the operator of a folder that cannot be used, once until it can."""
        if str(error) not in self._unusable:
            self._unusable.add(str(error))
            log.error("What was accepted waits. %s", error)

    async def wait_until_writable(self) -> bool:
        """Wait until new jobs would be accepted; return False if the bot stops before that.

        It takes longer each time until pictures were stored: that jobs are accepted need not mean
        that their pictures are.
        """
        first = min(self._returned, len(_PAUSES) - 1)
        self._returned += 1
        for pause in itertools.chain(_PAUSES[first:], itertools.repeat(_PAUSES[-1])):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
                return False
            with contextlib.suppress(StorageError):
                await asyncio.to_thread(self._space.check)
                return True
        raise AssertionError("the pauses never end")

    def close(self) -> None:
        """Have what waits for room give up after one more attempt."""
        self._closing.set()


async def _tell(on_wait: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TELL_SECONDS):
            await on_wait()
