"""Orphans are quarantined, removed 30 days later, and return if a row needs them."""

from __future__ import annotations

import shutil
import stat
import time
from pathlib import Path

import pytest

from bot.cli import data_folder
from storage.backup.create import back_up
from storage.backup.restore import restore
from storage.deletion import jobs as deletion
from storage.folder.layout import DATABASE_NAME, PICTURES_NAME, UNKNOWN_NAME
from storage.folder.permissions import Privacy, make_private
from storage.pictures.files import PictureFiles
from storage.upkeep import orphans

from ..inspection import kept_pixels, open_jobs
from ..samples import new_job, pixels, request
from .quarantine import (
    DAY,
    age,
    aside,
    every,
    in_aside,
    many,
    older_and_newer,
    picture,
    read_all,
    start,
    there,
    unknown_file,
)


async def test_orphans_are_moved_into_quarantine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_jobs(tmp_path) as store:
        await picture(store, 1)
    kept = there(tmp_path)
    unknown = unknown_file(tmp_path)
    await start(tmp_path)
    assert (there(tmp_path), aside(tmp_path)) == (kept, {unknown.stem})
    lines = [record.getMessage() for record in caplog.records if UNKNOWN_NAME in record.message]
    (line,) = lines
    assert "does not know 1 of the picture files" in line
    assert str(tmp_path / UNKNOWN_NAME) in line
    assert "after 30 days" in line
    assert "put the newer database back" in line
    moved = in_aside(tmp_path, unknown.stem)
    assert moved.stat().st_mtime == pytest.approx(time.time(), abs=60)
    for folder in (tmp_path / UNKNOWN_NAME, moved.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_file_is_removed_30_days_after_its_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = unknown_file(tmp_path)
    await start(tmp_path)
    moved = in_aside(tmp_path, unknown.stem)
    now = time.time()
    for days, is_there in ((29.9, True), (30.1, False)):
        with monkeypatch.context() as patch:
            patch.setattr(orphans.time, "time", lambda days=days: now + days * DAY)
            await start(tmp_path)
        assert moved.exists() is is_there
    assert not (tmp_path / UNKNOWN_NAME).exists()


async def test_an_older_database_in_place_of_the_newer_one_loses_no_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / DATABASE_NAME
    async with open_jobs(tmp_path) as store:
        ids = [await picture(store, seed) for seed in range(5)]
        await store.delete(await picture(store, 50))
    older = path.read_bytes()
    async with open_jobs(tmp_path) as store:
        # In the older database the second picture is removed.
        ids += [await picture(store, seed) for seed in (60, 50)]
        await store.add(new_job(request=request(source=pixels(70), strength=0.5)))
    newer, all_of_them = path.read_bytes(), there(tmp_path)
    assert len(all_of_them) == 5 + 3
    path.write_bytes(older)
    text, fix = data_folder.check_or_explain(tmp_path)
    assert "it knows only 5 of the picture files; the next start moves the other 3" in text
    assert "put the right one back" in fix
    for _ in range(2):
        await read_all(tmp_path, ids[:5])
        assert len(there(tmp_path)) == 5
        assert there(tmp_path) | aside(tmp_path) == all_of_them
    assert "does not know 3 of the picture files" in caplog.text
    text, fix = data_folder.check_or_explain(tmp_path)
    assert (f"3 picture files are in {UNKNOWN_NAME}" in text, fix) == (True, "")
    path.write_bytes(newer)
    text, fix = data_folder.check_or_explain(tmp_path)
    assert ("the database knows 3 of them, which come back at the next start" in text, fix) == (
        True,
        "",
    )
    await read_all(tmp_path, ids)
    async with open_jobs(tmp_path) as store:
        assert await kept_pixels(store, pixels(70).sha256) == pixels(70)
    assert (there(tmp_path), aside(tmp_path)) == (all_of_them, set())
    assert "3 pictures returned" in caplog.text
    assert data_folder.check_or_explain(tmp_path) == (
        f"{tmp_path} can be written; it is intact",
        "",
    )


async def test_a_known_picture_returns_even_after_the_30_days(tmp_path: Path) -> None:
    older, newer, ids = await older_and_newer(tmp_path)
    (tmp_path / DATABASE_NAME).write_bytes(older)
    await start(tmp_path)
    for sha256 in aside(tmp_path):
        age(in_aside(tmp_path, sha256), 400)
    (tmp_path / DATABASE_NAME).write_bytes(newer)
    await read_all(tmp_path, ids)


async def test_a_damaged_file_does_not_return(tmp_path: Path) -> None:
    async with open_jobs(tmp_path) as store:
        job_id = await picture(store, 1)
        (image,) = await store.images(job_id)
        data = await store.read(image)
    path = PictureFiles(tmp_path / PICTURES_NAME).path(image.sha256)
    moved = in_aside(tmp_path, image.sha256)
    moved.parent.mkdir(parents=True)
    path.rename(moved)
    moved.write_bytes(b"half")
    await start(tmp_path)
    assert not path.exists()
    assert moved.read_bytes() == b"half"
    # A sound file replaces a damaged one. No second copy remains.
    path.write_bytes(b"half")
    for _ in range(2):
        moved.parent.mkdir(parents=True, exist_ok=True)
        moved.write_bytes(data)
        await read_all(tmp_path, [job_id])
        assert not moved.exists()


async def test_a_picture_that_was_deleted_is_removed_from_quarantine_at_once(
    tmp_path: Path,
) -> None:
    older, _, ids = await older_and_newer(tmp_path)
    async with open_jobs(tmp_path) as store:
        (image,) = await store.images(ids[-1])
        # The bot is killed before it removes the file.
        await store._db.run(lambda db: deletion.forget(db, ids[-1], None))
    newer = (tmp_path / DATABASE_NAME).read_bytes()
    (tmp_path / DATABASE_NAME).write_bytes(older)
    await start(tmp_path)
    assert image.sha256 in aside(tmp_path)
    (tmp_path / DATABASE_NAME).write_bytes(newer)
    await read_all(tmp_path, ids[:-1])
    assert image.sha256 not in {path.stem for path in every(tmp_path)}


async def test_a_second_move_starts_the_30_days_again(tmp_path: Path) -> None:
    for content in (b"from another database", b"from another database", b"damaged since"):
        unknown = unknown_file(tmp_path)
        unknown.write_bytes(content)
        await start(tmp_path)
        moved = in_aside(tmp_path, unknown.stem)
        assert not unknown.exists()
        assert moved.read_bytes() == b"from another database"
        assert moved.stat().st_mtime == pytest.approx(time.time(), abs=60)
        age(moved, 29)


async def test_links_and_other_file_names_are_not_moved(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    unknown = unknown_file(data)
    outside.mkdir()
    secret = outside / f"{'cd' * 32}.png"
    secret.write_bytes(b"somebody else's")
    pictures = data / PICTURES_NAME
    (pictures / "cd").symlink_to(outside)
    link = unknown.with_name(f"{unknown.parent.name}{'0' * 62}.png")
    link.symlink_to(secret)
    foreign = [
        unknown.with_name("holiday.png"),
        unknown.with_name(f"{unknown.stem}.jpg"),
        unknown.with_name(f"{unknown.stem.upper()}.PNG"),
        # In the shard of another name.
        unknown.with_name(f"{'ff' if unknown.stem[:2] != 'ff' else '00'}{'1' * 62}.png"),
        pictures / f"{unknown.stem}.png",
    ]
    for path in foreign:
        path.write_bytes(b"mine")
    left = in_aside(data, "ee" * 32)
    left.parent.mkdir(parents=True)
    (left.parent / "note.txt").write_bytes(b"mine")
    left.symlink_to(secret)
    for path in (secret, left.parent / "note.txt", *foreign):
        age(path, 100)
    await start(data)
    assert not unknown.exists()
    assert all(path.read_bytes() == b"mine" for path in (*foreign, left.parent / "note.txt"))
    assert link.is_symlink()
    assert left.is_symlink()
    assert [path.name for path in outside.iterdir()] == [secret.name]
    assert secret.stat().st_mtime < time.time() - 99 * DAY


async def test_a_backup_ignores_the_quarantine_and_a_restore_keeps_it(
    tmp_path: Path,
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with open_jobs(data) as store:
        job_id = await picture(store, 1)
    unknown = unknown_file(data)
    await start(data)
    back_up(data, copy)
    assert list(copy.rglob(f"*{UNKNOWN_NAME}*")) == []
    assert list(copy.rglob(unknown.name)) == []
    restore(copy, data, replace=True)
    assert aside(data) == {unknown.stem}
    await read_all(data, [job_id])
    # Also into a folder without any other file.
    for path in data.iterdir():
        if path.name != UNKNOWN_NAME:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert restore(copy, data).aside is None
    await read_all(data, [job_id])
    assert aside(data) == {unknown.stem}


async def test_doctor_counts_orphans_and_changes_nothing(tmp_path: Path) -> None:
    names = many(tmp_path, 3)
    await start(tmp_path)
    for name in names:
        age(in_aside(tmp_path, name), 31)
    unknown_file(tmp_path)
    before = every(tmp_path)
    text, fix = data_folder.check_or_explain(tmp_path)
    assert f"3 picture files are in {UNKNOWN_NAME}" in text
    assert "the next start moves the other 1" in text
    assert fix
    assert every(tmp_path) == before


async def test_the_quarantine_counts_as_the_bots_own_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    unknown_file(data)
    await start(data)
    data.chmod(0o755)
    assert make_private(data) is Privacy.TIGHTENED
