"""The statements on the servers of the bot."""

from __future__ import annotations

from collections.abc import Collection

import sqlite_utils


def add(db: sqlite_utils.Database, account_id: int, guild_ids: Collection[int]) -> None:
    """Record that a bot account is in these servers."""
    db.conn.executemany(
        """
        INSERT INTO guilds (guild_id, account_id) VALUES (?, ?)
        ON CONFLICT (guild_id) DO UPDATE SET account_id = excluded.account_id
        WHERE account_id IS NOT excluded.account_id
        """,
        [(guild_id, account_id) for guild_id in guild_ids],
    )


def missing(db: sqlite_utils.Database, account_id: int, guild_ids: Collection[int]) -> list[int]:
    """Return the recorded servers of a bot account that are not among these.

    Servers without an account, from an older version, count for every account.
    """
    rows = db.execute(
        "SELECT guild_id FROM guilds WHERE ifnull(account_id, ?) = ? ORDER BY guild_id",
        (account_id, account_id),
    )
    present = frozenset(guild_ids)
    return [guild_id for (guild_id,) in rows.fetchall() if guild_id not in present]


def remove(db: sqlite_utils.Database, guild_id: int) -> None:
    """Remove a server."""
    db.execute("DELETE FROM guilds WHERE guild_id = ?", (guild_id,))
