from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import FolderUnusable

from .conftest import ReadOnly
from .inspection import open_jobs
from .samples import new_job


async def test_opening_creates_the_folder_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    async with open_jobs(folder) as store:
        await store.add(new_job())
    assert {path.name for path in folder.iterdir()} == {
        "imagine-bot.db",
        "imagine-bot.lock",
        "pictures",
    }


async def test_a_folder_that_cannot_be_written_is_refused(
    shared_folder: Path, read_only: ReadOnly
) -> None:
    with read_only():
        for folder in (shared_folder, shared_folder / "data"):
            with pytest.raises(FolderUnusable, match=r"choose another folder with --data\.$"):
                async with open_jobs(folder):
                    pass


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(FolderUnusable, match="it is not a folder"):
        async with open_jobs(tmp_path / "data"):
            pass


async def test_the_start_removes_half_written_pictures(tmp_path: Path) -> None:
    leftover = tmp_path / "pictures" / "ab" / f"{'ab' * 32}.tmp"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half a pic")
    async with open_jobs(tmp_path):
        assert not leftover.exists()
