"""The servers that the bot is in. After a downtime they tell which servers the bot has left."""

from __future__ import annotations

from collections.abc import Collection

from .database import Database
from .queries import joined_guilds as queries


class JoinedGuilds:
    """The servers of each bot account. Every method raises StorageError if the database fails.

    The jobs do not tell this. A job may come from a server that added only the commands, where the
    bot never was a member. And the operator may run another bot account on the same data folder.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, account_id: int, guild_ids: Collection[int]) -> None:
        """Record that a bot account is in these servers."""
        await self._db.run(lambda db: queries.add(db, account_id, guild_ids))

    async def missing(self, account_id: int, guild_ids: Collection[int]) -> list[int]:
        """Return the recorded servers of a bot account that are not among these."""
        return await self._db.read(lambda db: queries.missing(db, account_id, guild_ids))

    async def remove(self, guild_id: int) -> None:
        """Remove a server that the bot has left, after its jobs are deleted."""
        await self._db.run(lambda db: queries.remove(db, guild_id))
