"""Erases in the background what was deleted, so that nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from ..database import Database
from ..deletion import erasing, stripping
from ..errors import StorageError
from ..pictures import keeping
from ..pictures.files import NewFile, PictureFiles

log = logging.getLogger(__name__)

# Merging the index of a million prompts takes a minute: that is done once in a while then, after a
# pause of so many times as long as it took, and not for each deletion.
_REST: Final = 50.0
_LEAST_REST_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 30.0
_LAST_SECONDS: Final = 5.0


class Eraser:
    """Takes deleted words and recipes out of the bytes of the files, in small transactions.

    It is done soon after a deletion, at the latest in `close`; what takes longer than a few
    seconds there is finished after the next start.
    """

    def __init__(self, db: Database, pictures: PictureFiles) -> None:
        self._db = db
        self._pictures = pictures
        self._wanted = False
        self._files_wanted = False
        self._files_lock = asyncio.Lock()
        self._files_task: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def want(self) -> None:
        """Have erased what was deleted until now."""
        self._wanted = self._files_wanted = True
        if self._files_task is None or self._files_task.done():
            self._files_task = asyncio.create_task(self._work_on_files(), name="erase recipes")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="erase what was deleted")

    async def close(self) -> None:
        """Erase what is left, if that takes no longer than a few seconds."""
        for task in (self._files_task, self._task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._wanted:
            with contextlib.suppress(TimeoutError, StorageError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self.erase()

    async def erase(self) -> bool:
        """Erase all that was deleted before; return False if somebody who reads is in the way.

        Raises:
            StorageError: it cannot be written now.
        """
        self._wanted = False
        try:
            await self._erase_files()
            merging = erasing.begin_merging
            while await self._db.run(merging):
                merging = erasing.go_on_merging
            is_done = await self._db.run_bare(erasing.empty_log)
            if is_done:
                await self._db.run(erasing.end_merging)
        except BaseException:
            self._wanted = True
            raise
        self._wanted |= not is_done
        return is_done

    async def _erase_files(self) -> None:
        async with self._files_lock:
            self._files_wanted = False
            while await self._db.run(stripping.pass_over):
                pass
            while (sha256 := await self._db.run(stripping.next_picture)) is not None:
                bare = await asyncio.to_thread(stripping.without_recipe, self._pictures, sha256)
                await self._replace(sha256, bare)
            await self._db.run(lambda db: keeping.remove_marked_files(db, self._pictures))

    async def _replace(self, sha256: str, bare: NewFile | None) -> None:
        await self._db.run_both(
            lambda db: keeping.announce_files(db, [] if bare is None else [bare]),
            lambda db, _: stripping.replace(db, self._pictures, sha256, bare),
        )

    async def _work_on_files(self) -> None:
        """Erase the recipes in the files at once, also while the index is left alone."""
        while self._files_wanted:
            try:
                await self._erase_files()
            except StorageError:
                # `_work` meets the same error, says so and tries again.
                return

    async def _work(self) -> None:
        while self._wanted:
            start = time.monotonic()
            try:
                await self.erase()
            except StorageError as error:
                log.warning("What was deleted is erased from the files later. %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                taken = time.monotonic() - start
                await asyncio.sleep(max(_LEAST_REST_SECONDS, _REST * taken))
