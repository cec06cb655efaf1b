"""Secure deletion in the background: the bytes of deleted prompts and recipes are overwritten."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from ..database import Database
from ..deletion import recipes, remnants
from ..errors import StorageError
from ..pictures import rows
from ..pictures.files import NewFile, PictureFiles

log = logging.getLogger(__name__)

# A merge of the index of a million prompts takes a minute. So the pause after a merge is so many
# times as long as the merge: it runs once in a while, and not after each deletion.
_PAUSE_FACTOR: Final = 50.0
_PAUSE_MIN_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 5.0


class SecureDeletion:
    """Removes deleted prompts and recipes from the bytes of all files, in small transactions.

    This happens soon after a deletion, at the latest in `close`. What takes longer than a few
    seconds there is finished after the next start.
    """

    def __init__(self, db: Database, pictures: PictureFiles) -> None:
        self._db = db
        self._pictures = pictures
        self._is_requested = False
        self._are_files_requested = False
        self._files_lock = asyncio.Lock()
        self._files_task: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Start to remove what was deleted until now."""
        self._is_requested = self._are_files_requested = True
        if self._files_task is None or self._files_task.done():
            self._files_task = asyncio.create_task(self._work_on_files(), name="strip recipes")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="secure deletion")

    async def close(self) -> None:
        """Remove what is left, for a few seconds at most."""
        for task in (self._files_task, self._task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._is_requested:
            with contextlib.suppress(TimeoutError, StorageError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self.run()

    async def run(self) -> bool:
        """Remove all that was deleted before; return False if a reader blocked the last step.

        Raises:
            StorageError: the database or a picture cannot be written.
        """
        self._is_requested = False
        try:
            await self._strip_files()
            merge = remnants.begin_merging
            while await self._db.run(merge):
                merge = remnants.continue_merging
            is_done = await self._db.run_bare(remnants.empty_log)
            if is_done:
                await self._db.run(remnants.end_merging)
        except BaseException:
            self._is_requested = True
            raise
        self._is_requested |= not is_done
        return is_done

    async def _strip_files(self) -> None:
        async with self._files_lock:
            self._are_files_requested = False
            while await self._db.run(recipes.skip_finished):
                pass
            while (sha256 := await self._db.run(recipes.next_picture)) is not None:
                stripped = await asyncio.to_thread(recipes.strip_recipe, self._pictures, sha256)
                await self._replace(sha256, stripped)
            await self._db.run(lambda db: rows.remove_marked_files(db, self._pictures))

    async def _replace(self, sha256: str, stripped: NewFile | None) -> None:
        await self._db.run_both(
            lambda db: rows.announce_files(db, [] if stripped is None else [stripped]),
            lambda db, _: recipes.replace_file(db, self._pictures, sha256, stripped),
        )

    async def _work_on_files(self) -> None:
        """Strip recipes at once, even while `_work` pauses between merges."""
        while self._are_files_requested:
            try:
                await self._strip_files()
            except StorageError:
                # `_work` meets the same error, logs it and retries.
                return

    async def _work(self) -> None:
        while self._is_requested:
            start = time.monotonic()
            try:
                await self.run()
            except StorageError as error:
                log.warning(
                    "Deleted data could not be overwritten yet; the next attempt is in %d seconds. "
                    "%s",
                    _RETRY_SECONDS,
                    error,
                )
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                taken = time.monotonic() - start
                await asyncio.sleep(max(_PAUSE_MIN_SECONDS, _PAUSE_FACTOR * taken))
