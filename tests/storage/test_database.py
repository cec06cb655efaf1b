from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlite_utils

from storage.database import Database
from storage.errors import DatabaseUnusable, DiskFull, StorageError
from storage.sqlite.readonly import open_readonly

from .conftest import ReadOnly


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "bot.db"


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    async with Database(path) as db:
        await db.run(lambda db: db.execute("CREATE TABLE notes (text TEXT)"))
        yield db


def note(text: str) -> object:
    return lambda db: db.execute("INSERT INTO notes VALUES (?)", (text,))


def notes(path: Path) -> list[str]:
    """Return the rows that another process would read."""
    db = sqlite3.connect(path)
    try:
        return [text for (text,) in db.execute("SELECT text FROM notes")]
    finally:
        db.close()


async def test_an_awaited_write_is_committed(db: Database) -> None:
    assert await db.run(lambda db: db.execute("INSERT INTO notes VALUES ('a')").rowcount) == 1
    assert notes(db.path) == ["a"]


async def test_an_exception_reaches_the_caller_and_rolls_the_transaction_back(db: Database) -> None:
    def write_then_raise(db: sqlite_utils.Database) -> None:
        db.execute("INSERT INTO notes VALUES ('a')")
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await db.run(write_then_raise)
    await db.run(note("b"))
    assert notes(db.path) == ["b"]


async def test_even_stop_iteration_reaches_the_caller(db: Database) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await db.run(lambda _: next(iter(())))


async def test_all_functions_run_in_one_thread_beside_the_event_loop(db: Database) -> None:
    threads = set(await asyncio.gather(*(db.run(lambda _: threading.get_ident()) for _ in "abc")))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_cancelled_caller_neither_stops_the_write_nor_the_thread(db: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))

    def slow(db: sqlite_utils.Database) -> None:
        db.execute("INSERT INTO notes VALUES ('slow')")
        begun.set()
        go_on.wait(10)

    running = asyncio.create_task(db.run(slow))
    waiting = asyncio.create_task(db.run(note("waiting")))
    await asyncio.to_thread(begun.wait, 10)
    running.cancel()
    waiting.cancel()
    await asyncio.wait({running, waiting})
    assert running.cancelled()
    assert waiting.cancelled()
    go_on.set()
    await db.run(note("next"))
    assert notes(db.path) == ["slow", "waiting", "next"]
    assert unhandled == []


async def test_a_closed_loop_does_not_end_the_thread(db: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(db: sqlite_utils.Database) -> None:
        begun.set()
        go_on.wait(10)
        db.execute("INSERT INTO notes VALUES ('slow')")

    async def ask_and_leave() -> None:
        asking = asyncio.create_task(db.run(slow))
        await asyncio.to_thread(begun.wait, 10)
        asking.cancel()

    await asyncio.to_thread(asyncio.run, ask_and_leave())
    go_on.set()
    async with asyncio.timeout(10):
        await db.run(note("next"))
    assert notes(db.path) == ["slow", "next"]


async def test_closing_waits_for_earlier_tasks_without_blocking_the_loop(path: Path) -> None:
    go_on = threading.Event()
    async with Database(path) as db:
        await db.run(lambda db: db.execute("CREATE TABLE notes (text TEXT)"))
        waited = asyncio.create_task(db.run(lambda _: go_on.wait(10)))
        asked = [asyncio.create_task(db.run(note(str(n)))) for n in range(20)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(go_on.set)
    assert await waited
    await asyncio.gather(*asked)
    assert notes(path) == [str(n) for n in range(20)]


async def test_a_closed_database_raises_a_storage_error(path: Path) -> None:
    async with Database(path) as db:
        pass
    with pytest.raises(StorageError, match="is closed"):
        await db.run(lambda _: None)
    assert "database" not in {thread.name for thread in threading.enumerate()}


async def test_commits_are_synced_to_disk(db: Database) -> None:
    def pragmas(db: sqlite_utils.Database) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    full, on = 2, 1
    assert await db.run(pragmas) == ["wal", full, on]


async def test_a_full_disk_is_reported_and_rolled_back(db: Database) -> None:
    # SQLite raises the same error at its page limit as on a full disk.
    await db.run(lambda db: db.execute("PRAGMA max_page_count = 1"))
    with pytest.raises(DiskFull, match="free some space") as caught:
        await db.run(note("long " * 10_000))
    assert caught.value.path == db.path
    await db.run(note("short"))
    assert notes(db.path) == ["short"]


async def test_a_wrong_statement_is_a_storage_error(db: Database) -> None:
    with pytest.raises(StorageError, match="no such table: nowhere"):
        await db.run(lambda db: db.execute("SELECT * FROM nowhere"))


async def refusal(path: Path) -> str:
    """Return why the database cannot be opened."""
    with pytest.raises(DatabaseUnusable) as caught:
        async with Database(path, busy_seconds=0.01):
            pass
    assert caught.value.path == path
    assert str(caught.value) == f"The database {path} {caught.value.reason}."
    assert "database" not in {thread.name for thread in threading.enumerate()}
    return caught.value.reason


async def test_a_file_that_is_not_a_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.write_text("my shopping list, longer than the header of a database " * 10)
    assert (await refusal(path)).startswith("is not a database")
    assert path.read_text().startswith("my shopping list")


def overwrite_first_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * 3996
    path.write_bytes(data)


async def test_a_damaged_database_is_refused(path: Path) -> None:
    async with Database(path):
        pass
    overwrite_first_page(path)
    assert (await refusal(path)).startswith("is damaged")


async def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    async with Database(path) as db:
        await db.run(
            lambda db: db["_sqlite_migrations"].insert(
                {"migration_set": "imagine-bot", "name": "m999_dreams", "applied_at": "2099"}
            )
        )
    assert (await refusal(path)).startswith("was made by a newer Imagine Bot; update")
    with pytest.raises(DatabaseUnusable, match="newer"):
        open_readonly(path)


async def test_a_database_of_another_program_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    before = path.read_bytes()
    assert (await refusal(path)).startswith("belongs to another program")
    assert path.read_bytes() == before


async def test_a_locked_database_is_refused_with_instructions(path: Path) -> None:
    async with Database(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert (await refusal(path)).startswith("is locked by another program; close")
    finally:
        other.close()


async def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert "choose another folder" in await refusal(tmp_path / "data" / "bot.db")


async def test_a_folder_that_cannot_be_written_is_refused(
    shared_folder: Path, read_only: ReadOnly
) -> None:
    with read_only():
        assert (await refusal(shared_folder / "bot.db")).startswith("cannot be opened; let")
    async with Database(shared_folder / "bot.db"):
        pass
    with read_only():
        assert "let the bot's user" in await refusal(shared_folder / "bot.db")
