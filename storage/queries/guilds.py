"""Which servers the bot is in: so it knows, when it comes back, which it has left meanwhile.

Jobs do not say it. A job may come from a server that added only the commands, where the bot never
was, and the operator may give the same data folder to another bot account, which is in none of the
servers of the first. In neither case has the bot left anything.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlite_utils


def join(db: sqlite_utils.Database, account_id: int, guild_ids: Collection[int]) -> None:
    """Remember that a bot account is in these servers."""
    db.conn.executemany(
        """
        INSERT INTO guilds (guild_id, account_id) VALUES (?, ?)
        ON CONFLICT (guild_id) DO UPDATE SET account_id = excluded.account_id
        WHERE account_id IS NOT excluded.account_id
        """,
        [(guild_id, account_id) for guild_id in guild_ids],
    )


def missing(db: sqlite_utils.Database, account_id: int, guild_ids: Collection[int]) -> list[int]:
    """Return the servers that a bot account was in and that are not among these.

    Servers from before accounts were remembered count as those of any account.
    """
    rows = db.execute(
        "SELECT guild_id FROM guilds WHERE ifnull(account_id, ?) = ? ORDER BY guild_id",
        (account_id, account_id),
    )
    present = frozenset(guild_ids)
    return [guild_id for (guild_id,) in rows.fetchall() if guild_id not in present]


def forget(db: sqlite_utils.Database, guild_id: int) -> None:
    """Forget a server that the bot has left, once nothing of it is kept."""
    db.execute("DELETE FROM guilds WHERE guild_id = ?", (guild_id,))
