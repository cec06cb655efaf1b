from __future__ import annotations

from pathlib import Path

from storage.opening import open_storage

ACCOUNT, OTHER = 1, 2


async def test_a_server_is_missing_until_it_is_removed_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async with open_storage(tmp_path) as storage:
        await storage.joined_guilds.add(ACCOUNT, [10, 20, 30])
        assert await storage.joined_guilds.missing(ACCOUNT, [10, 20, 30]) == []
        assert await storage.joined_guilds.missing(ACCOUNT, [20, 40]) == [10, 30]
    async with open_storage(tmp_path) as storage:
        assert await storage.joined_guilds.missing(ACCOUNT, [20]) == [10, 30]
        await storage.joined_guilds.remove(10)
        assert await storage.joined_guilds.missing(ACCOUNT, [20]) == [30]


async def test_another_account_has_not_left_the_servers_of_the_first(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as storage:
        await storage.joined_guilds.add(ACCOUNT, [10, 20])
        await storage.joined_guilds.add(OTHER, [20])
        assert await storage.joined_guilds.missing(OTHER, []) == [20]
        assert await storage.joined_guilds.missing(ACCOUNT, []) == [10]
