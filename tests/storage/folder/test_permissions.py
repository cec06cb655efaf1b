from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from storage.errors import StorageError
from storage.folder.permissions import Privacy, make_private, others_may_enter

from ..inspection import open_jobs
from ..samples import new_job


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with the permissions of earlier versions."""
    folder = tmp_path / "data"
    asyncio.run(_used(folder))
    folder.chmod(0o755)
    return folder


async def _used(folder: Path) -> None:
    async with open_jobs(folder) as jobs:
        await jobs.add(new_job())


def test_a_new_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert make_private(tmp_path / "in" / "data") is Privacy.PRIVATE
    finally:
        os.umask(before)
    assert mode(tmp_path / "in" / "data") == 0o700


def test_an_older_folder_is_made_private(data: Path) -> None:
    assert others_may_enter(data)
    assert make_private(data) is Privacy.TIGHTENED
    assert mode(data) == 0o700
    assert make_private(data) is Privacy.PRIVATE


def test_a_folder_with_other_files_is_not_changed(data: Path) -> None:
    (data / "public.html").touch()
    assert make_private(data) is Privacy.SHARED
    assert mode(data) == 0o755


def test_a_world_writable_folder_is_not_changed(data: Path) -> None:
    data.chmod(0o1777)
    assert make_private(data) is Privacy.SHARED
    assert mode(data) == 0o1777


def test_a_folder_of_another_user_is_not_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert make_private(data) is Privacy.SHARED
    assert mode(data) == 0o755


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StorageError, match="choose another folder with --data"):
        make_private(tmp_path / "data")
