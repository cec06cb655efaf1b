from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from storage.errors import DatabaseUnusable, FolderInUse

from ..inspection import counts, open_jobs

REPOSITORY = Path(__file__).parents[3]


async def test_two_bots_never_work_on_one_folder(tmp_path: Path) -> None:
    async with open_jobs(tmp_path):
        with pytest.raises(FolderInUse) as caught:
            async with open_jobs(tmp_path):
                pass
    assert str(caught.value) == (
        f"{tmp_path} is in use by another Imagine Bot (process {os.getpid()}); "
        f"stop it or choose another folder with --data."
    )


async def test_closing_releases_the_lock(tmp_path: Path) -> None:
    for _ in range(2):
        async with open_jobs(tmp_path) as store:
            await counts(store)


async def test_a_failed_opening_releases_the_lock(tmp_path: Path) -> None:
    database = tmp_path / "imagine-bot.db"
    database.write_text("my shopping list, longer than the header of a database " * 10)
    with pytest.raises(DatabaseUnusable):
        async with open_jobs(tmp_path):
            pass
    database.unlink()
    async with open_jobs(tmp_path) as store:
        await counts(store)


async def test_the_error_names_the_other_process_whose_death_releases_the_lock(
    tmp_path: Path,
) -> None:
    other = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.storage.faults.crash_worker",
        str(tmp_path),
        "0",
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        assert await other.stdout.readline()
        with pytest.raises(FolderInUse) as caught:
            async with open_jobs(tmp_path):
                pass
        assert caught.value.process == other.pid
    finally:
        other.kill()
        await other.communicate()
    async with open_jobs(tmp_path) as store:
        await counts(store)
