"""The short form of `tests.search_scale`: the query plans of SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlite_utils

from storage.folder.layout import DATABASE_NAME
from storage.jobs import JobStore
from storage.opening import Storage
from storage.queries import history as queries
from storage.sqlite import indexing

from ...search_scale import HEAVY, LIGHT, NEW, fill
from ..inspection import history, open_jobs, unfinished
from ..samples import finished, new_job, request
from .test_history import show

TABLES = {"jobs", "images", "pictures", "search_members"}
# Indexes that hold few rows, so a scan is fine.
SHORT = ("jobs_unremoved", "jobs_unwithdrawn", "pictures_removing", "images_unstripped")


def plan(db: sqlite_utils.Database, sql: str) -> str:
    values = ("x", 0, 1)[: sql.count("?")] if "?" in sql else {"user": 1, "limit": 5, "id": 1}
    return "; ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values))


@pytest.fixture
async def asked(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the statements of the store."""
    statements: list[str] = []
    await store._db.run(lambda db: db.conn.set_trace_callback(statements.append))
    await store._db.read(lambda db: db.conn.set_trace_callback(statements.append))
    return statements


async def test_no_query_of_the_bot_scans_all_jobs(store: JobStore, asked: list[str]) -> None:
    job = await store.add(new_job())
    await store.start(job.id)
    await store.complete(job.id, finished(job.request))
    await store.delivered(job.id, 5)
    for query in ("", "rab", "background rabbit", "12", str(job.id)):
        await history(store, 1, query, 25)
    await store.deleted_with_message()
    await store.unreported_cancellations()
    await unfinished(store)
    await store.by_message(5)
    await store.ids_shown_in([5, 6])
    await store.ids_in_channel(3)
    await store.ids_in_guild(2)
    await store.delete(job.id)
    selects = [sql for sql in asked if sql.lstrip().upper().startswith(("SELECT", "UPDATE"))]
    plans = {sql: await store._db.run(lambda db, sql=sql: plan(db, sql)) for sql in selects}
    assert any("prompt_search" in sql for sql in plans)
    for sql, steps in plans.items():
        for step in steps.split("; "):
            is_whole = step.startswith("SCAN") and step.split()[1] in TABLES
            assert not is_whole or step.endswith(SHORT), f"{step} in {sql}"


async def test_the_jobs_of_a_channel_or_a_server_are_found_by_an_index(
    store: JobStore, asked: list[str]
) -> None:
    first, second = await store.add(new_job()), await store.add(new_job())
    await store.add(new_job(guild_id=20, channel_id=30))
    gone = await store.add(new_job())
    await store.delete(gone.id)
    asked.clear()
    assert await store.ids_in_channel(3) == [first.id, second.id]
    assert await store.ids_in_guild(2) == [first.id, second.id]
    statements = [sql for sql in asked if sql.startswith("SELECT id FROM jobs WHERE")]
    plans = [await store._db.read(lambda db, sql=sql: plan(db, sql)) for sql in statements]
    assert plans == [
        "SEARCH jobs USING INDEX jobs_in_channel (channel_id=?)",
        "SEARCH jobs USING INDEX jobs_in_guild (guild_id=?)",
    ]


async def test_the_channels_of_a_server_are_found_without_reading_each_job(
    store: JobStore, asked: list[str]
) -> None:
    for channel_id in (9, 3, 3, 7):
        await store.add(new_job(guild_id=2, channel_id=channel_id))
    await store.add(new_job(guild_id=20, channel_id=5))
    gone = await store.add(new_job(guild_id=2, channel_id=8))
    await store.delete(gone.id)
    asked.clear()
    assert await store.channels_of(2) == [3, 7, 9]
    assert await store.channels_of(21) == []
    statement = next(sql for sql in asked if "RECURSIVE" in sql)
    steps = await store._db.read(lambda db: plan(db, statement))
    assert "SCAN jobs" not in steps


async def test_a_search_reads_the_newest_jobs_first_and_sorts_nothing(store: JobStore) -> None:
    steps = await store._db.read(lambda db: plan(db, queries.SEARCH))
    assert "TEMP B-TREE" not in steps
    assert steps.index("prompt_search") < steps.index("jobs USING")


@pytest.mark.parametrize(
    ("prompt", "query", "is_found"),
    [
        ("on a background", "background", True),
        ("on a background", "backgrounds", False),
        ("on a background", "backgr", True),
        ("on a BÂCKGROUND", "background", True),
        ("on a backgro\u0302und", "backgroun", True),
        ("octane-styling", "octane-styli", True),
        ("octane-styling", "octane-stylus", False),
        ("octane styling", "octane-styling", True),
        ("octane, no styling", "octane-styling", False),
        ("photograph", "photon-graph", False),
        ("可爱的兔子在森林里", "可爱的兔子在森林", True),
        ("可爱的兔子在森林里", "可爱的兔子在月亮", False),
        ("background music", "music background", True),
    ],
)
async def test_long_words_must_match_completely(
    store: JobStore, prompt: str, query: str, is_found: bool
) -> None:
    await show(store, prompt)
    assert bool(await history(store, 1, query, 5)) == is_found


async def test_a_slow_search_returns_the_newest_jobs_found_so_far(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [await show(store, f"owl {n}") for n in range(6)]
    monkeypatch.setattr(queries, "SEARCH_SECONDS", -1.0)
    monkeypatch.setattr(queries, "_STEPS_BETWEEN_CHECKS", 40)
    found = [entry.job_id for entry in await history(store, 1, "owl", 5)]
    assert found == numbers[::-1][: len(found)]
    assert len(found) < 5
    monkeypatch.undo()
    assert len(await history(store, 1, "owl", 5)) == 5


async def test_searches_delay_no_write_and_no_search_of_another_member(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    searching, go_on = threading.Event(), threading.Event()
    asked: list[int] = []
    history = queries.history

    def slow(db: sqlite_utils.Database, user_id: int, query: str, limit: int) -> object:
        asked.append(user_id)
        searching.set()
        assert go_on.wait(10)
        return history(db, user_id, query, limit)

    monkeypatch.setattr(queries, "history", slow)
    flood = [asyncio.create_task(storage.history.search(1, "owl", 25)) for _ in range(40)]
    await asyncio.to_thread(searching.wait, 10)
    async with asyncio.timeout(10):
        job = await storage.jobs.add(new_job())
        assert await storage.jobs.get(job.id) == job
    other = asyncio.create_task(storage.history.search(2, "owl", 25))
    await asyncio.sleep(0)
    go_on.set()
    await other
    assert asked.index(2) <= 2
    await asyncio.gather(*flood)


async def test_the_reading_connection_writes_nothing(store: JobStore) -> None:
    with pytest.raises(Exception, match="cannot be written"):
        await store._db.read(lambda db: db.execute("DELETE FROM jobs"))


async def test_the_index_holds_exactly_the_jobs_of_the_history(store: JobStore) -> None:
    async def indexed() -> list[str]:
        return await store._db.read(
            lambda db: [text for (text,) in db.execute("SELECT prompt FROM prompt_search")]
        )

    async def members() -> int:
        sql = "SELECT count(*) FROM search_members"
        return int(await store._db.read(lambda db: db.execute(sql).fetchone()[0]))

    job = await store.add(new_job("owl"))
    await store.start(job.id)
    assert await indexed() == []
    await store.complete(job.id, finished(job.request))
    assert await indexed() == ["owl"]
    await store.delivered(job.id, 7)
    assert (await indexed(), await members()) == (["owl"], 1)
    await store.delete(job.id)
    assert (await indexed(), await members()) == ([], 0)
    failed = await store.add(new_job("cat", request=request("cat", seed=5)))
    await store.start(failed.id)
    await store.complete(failed.id, finished(failed.request))
    await store.fail(failed.id, "Its delivery failed.")
    assert (await indexed(), await members()) == (["cat"], 1)
    cancelled = await store.add(new_job("dog"))
    await store.cancel(cancelled.id)
    assert (await indexed(), await members()) == (["cat"], 1)


def make_old(folder: Path, rows: int) -> None:
    fill(folder / DATABASE_NAME, rows)


async def test_older_jobs_are_indexed_in_portions_that_survive_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(tmp_path, 60)
    monkeypatch.setattr(indexing, "_PORTION", 7)
    index = indexing._index_portion
    portions = 0

    def index_until_it_dies(db: sqlite_utils.Database) -> int | None:
        nonlocal portions
        portions += 1
        if portions == 4:
            index(db)
            raise KeyboardInterrupt
        return index(db)

    monkeypatch.setattr(indexing, "_index_portion", index_until_it_dies)
    with pytest.raises(KeyboardInterrupt):
        async with open_jobs(tmp_path):
            pass
    db = sqlite3.connect(tmp_path / DATABASE_NAME)
    assert db.execute("SELECT count(*) FROM prompt_search").fetchone() == (21,)
    db.close()
    monkeypatch.setattr(indexing, "_index_portion", index)
    async with open_jobs(tmp_path) as store:
        assert [entry.job_id for entry in await history(store, HEAVY, "w", 100)] == [
            *range(59, 0, -2)
        ]
        assert [entry.job_id for entry in await history(store, LIGHT, "w2", 9)] == [2]
        assert await history(store, NEW, "w", 9) == []
        await store._db.run(
            lambda db: (
                db.execute("INSERT INTO prompt_search (prompt_search) VALUES ('integrity-check')")
                and None
            )
        )


async def test_a_request_that_is_not_json_does_not_stop_the_migration(tmp_path: Path) -> None:
    make_old(tmp_path, 4)
    db = sqlite3.connect(tmp_path / DATABASE_NAME)
    db.execute("DROP TRIGGER jobs_changed_in_search")
    db.execute("UPDATE jobs SET request = '{' WHERE id = 1")
    db.execute(
        "CREATE TRIGGER jobs_changed_in_search AFTER UPDATE OF request ON jobs BEGIN SELECT 1; END"
    )
    db.commit()
    db.close()
    async with open_jobs(tmp_path) as store:
        assert [entry.job_id for entry in await history(store, HEAVY, "w3", 9)] == [3]
