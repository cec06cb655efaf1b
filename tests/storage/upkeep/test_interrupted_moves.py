"""Moves of orphans that a crash, a full disk or another process interrupts."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from storage.errors import FolderInUse
from storage.folder.layout import DATABASE_NAME, PICTURES_NAME, UNKNOWN_NAME
from storage.pictures.files import PictureFiles

from ..inspection import open_jobs
from .quarantine import (
    REPOSITORY,
    Crash,
    age,
    aside,
    many,
    older_and_newer,
    read_all,
    start,
    there,
    unknown_file,
)


@pytest.mark.parametrize("place", [PICTURES_NAME, UNKNOWN_NAME])
async def test_no_file_is_moved_through_a_link_to_a_folder(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    unknown = unknown_file(data)
    if place == PICTURES_NAME:
        (data / place).rename(outside)
    else:
        old = PictureFiles(outside)
        age(old.path(old.write(b"old")), 100)
    (data / place).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    await start(data)
    assert unknown.exists()
    assert sorted(outside.rglob("*")) == before
    assert "it is a link" in caplog.text


@pytest.mark.parametrize("call", range(6))
async def test_a_crash_between_two_moves_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    older, newer, ids = await older_and_newer(tmp_path)
    all_of_them = there(tmp_path)
    for sha256 in all_of_them:
        os.utime(PictureFiles(tmp_path / PICTURES_NAME).path(sha256), (1, 1))
    replace, utime = Path.replace, os.utime
    left = call

    def die_at_last() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash

    def replace_and_die(path: Path, target: Path) -> Path:
        die_at_last()
        return replace(path, target)

    def mark_and_die(path: Path, times: tuple[float, float]) -> None:
        die_at_last()
        utime(path, times)

    for database in (older, newer):
        (tmp_path / DATABASE_NAME).write_bytes(database)
        left = call
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace_and_die)
            patch.setattr(os, "utime", mark_and_die)
            with pytest.raises(Crash):
                await start(tmp_path)
        assert there(tmp_path) | aside(tmp_path) == all_of_them
        await start(tmp_path)
        assert there(tmp_path) | aside(tmp_path) == all_of_them
    await read_all(tmp_path, ids)
    assert aside(tmp_path) == set()


async def test_a_kill_during_the_moves_loses_nothing(tmp_path: Path) -> None:
    names = many(tmp_path, 400)
    script = (
        "import asyncio, os, pathlib, signal\n"
        "from storage.opening import open_storage\n"
        "replace, done = pathlib.Path.replace, []\n"
        "def move(path, target):\n"
        "    done.append(replace(path, target))\n"
        "    len(done) < 150 or os.kill(os.getpid(), signal.SIGKILL)\n"
        "pathlib.Path.replace = move\n"
        "async def main():\n"
        f"    async with open_storage(pathlib.Path({str(tmp_path)!r})): pass\n"
        "asyncio.run(main())\n"
    )
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=REPOSITORY)
    assert await killed.wait() == -signal.SIGKILL
    assert (len(there(tmp_path)), len(aside(tmp_path))) == (250, 150)
    await start(tmp_path)
    assert (there(tmp_path), aside(tmp_path)) == (set(), names)


async def test_ten_thousand_files_take_little_time_and_do_not_lock_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = many(tmp_path, 10_000)
    replace, moves = Path.replace, 0

    def move(path: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves % 1_000 == 0:
            other = sqlite3.connect(tmp_path / DATABASE_NAME, timeout=0, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            other.close()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", move)
    begun = time.monotonic()
    await start(tmp_path)
    assert time.monotonic() - begun < 10
    assert (there(tmp_path), aside(tmp_path), moves) == (set(), names, 10_000)


async def test_no_file_is_moved_in_a_folder_in_use(tmp_path: Path) -> None:
    async with open_jobs(tmp_path):
        unknown = unknown_file(tmp_path)
        with pytest.raises(FolderInUse):
            await start(tmp_path)
        assert unknown.exists()


async def test_a_file_that_cannot_be_moved_does_not_stop_the_start_or_other_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = many(tmp_path, 3)
    stuck = min(names)
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.stem == stuck:
            raise OSError(18, os.strerror(18), str(path))
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        await start(tmp_path)
    assert (there(tmp_path), aside(tmp_path)) == ({stuck}, names - {stuck})
    assert "picture files could not be moved to" in caplog.text
    await start(tmp_path)
    assert (there(tmp_path), aside(tmp_path)) == (set(), names)
