from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from storage.database import Database
from storage.errors import DatabaseUnusable
from storage.sqlite.readonly import open_readonly

from ..conftest import ReadOnly


async def test_a_database_can_be_read_while_a_bot_uses_it(tmp_path: Path) -> None:
    async with Database(tmp_path / "bot.db") as db:
        await db.run(lambda db: db.execute("CREATE TABLE notes (text TEXT)"))
        reader = open_readonly(db.path)
        for texts in (["a"], ["a", "b"]):
            await db.run(
                lambda db, text=texts[-1]: db.execute("INSERT INTO notes VALUES (?)", text)
            )
            assert [row["text"] for row in reader["notes"].rows] == texts
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM notes")
        reader.close()


@pytest.mark.parametrize("name", ["bot.db", "what? #1 100%.db"])
async def test_a_database_can_be_read_while_no_bot_runs(tmp_path: Path, name: str) -> None:
    async with Database(tmp_path / name):
        pass
    reader = open_readonly(tmp_path / name)
    assert reader["jobs"].count == 0
    reader.close()


async def test_a_database_can_be_read_in_a_read_only_folder(
    shared_folder: Path, read_only: ReadOnly
) -> None:
    async with Database(shared_folder / "bot.db"):
        pass
    with read_only():
        reader = open_readonly(shared_folder / "bot.db")
        assert reader["jobs"].count == 0
        reader.close()


def test_reading_a_missing_database_is_refused_and_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="does not exist; start the bot once"):
        open_readonly(tmp_path / "bot.db")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.write_text("my shopping list, longer than the header of a database " * 10)
    with pytest.raises(DatabaseUnusable, match="is not a database"):
        open_readonly(path)
