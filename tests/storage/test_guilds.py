from __future__ import annotations

from pathlib import Path

from storage.opening import open_storage

ACCOUNT, OTHER = 1, 2


async def test_a_server_is_missed_until_it_is_forgotten_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async with open_storage(tmp_path) as store:
        await store.joined_guilds(ACCOUNT, [10, 20, 30])
        assert await store.missing_guilds(ACCOUNT, [10, 20, 30]) == []
        assert await store.missing_guilds(ACCOUNT, [20, 40]) == [10, 30]
    async with open_storage(tmp_path) as store:
        assert await store.missing_guilds(ACCOUNT, [20]) == [10, 30]
        await store.left_guild(10)
        assert await store.missing_guilds(ACCOUNT, [20]) == [30]


async def test_another_account_has_not_left_the_servers_of_the_first(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as store:
        await store.joined_guilds(ACCOUNT, [10, 20])
        await store.joined_guilds(OTHER, [20])
        assert await store.missing_guilds(OTHER, []) == [20]
        assert await store.missing_guilds(ACCOUNT, []) == [10]
