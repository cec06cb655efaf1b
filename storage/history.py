"""The history of members: a search in the prompts of their jobs."""

from __future__ import annotations

import asyncio
import weakref

from .database import Database
from .queries import history as queries
from .records import HistoryEntry


class History:
    """Searches the jobs of members. Every method raises StorageError if the database fails."""

    def __init__(self, db: Database) -> None:
        self._db = db
        # A lock lives as long as a search holds it or waits for it.
        self._locks = weakref.WeakValueDictionary[int, asyncio.Lock]()

    async def search(self, user_id: int, query: str, limit: int) -> list[HistoryEntry]:
        """Return at most `limit` of a member's jobs with images, newest first.

        Every word of `query` must begin a word of the prompt. A number also finds the job of that
        number. A query without words finds all jobs.
        """
        # One search at a time for each member: many searches of one member must not delay others.
        async with self._locks.setdefault(user_id, asyncio.Lock()):
            return await self._db.read(lambda db: queries.history(db, user_id, query, limit))
