from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from storage.backup import copying, create
from storage.backup import restore as restoring
from storage.backup.create import back_up
from storage.backup.restore import restore
from storage.errors import BackupRefused, DatabaseDamaged, FolderInUse, StorageError
from storage.folder.layout import DATABASE_NAME, PICTURES_NAME, UNKNOWN_NAME
from storage.jobs import JobStore
from storage.pictures import rows
from storage.pictures.files import PictureFiles

from ..faults.disks import fill, small_disk
from ..inspection import history, open_jobs
from ..queries.test_history import show
from ..samples import finished, new_job, request

KEPT = "SELECT sha256 FROM pictures WHERE state = 'kept'"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pictures(folder: Path, name: str = PICTURES_NAME) -> set[str]:
    return {path.stem for path in (folder / name).glob("??/*.png")}


async def owl(store: JobStore, seed: int) -> int:
    return await show(store, f"owl {seed}", request=request(f"owl {seed}", seed=seed))


def die_at_sync(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the program at a chosen sync."""
    calls, sync = 0, copying.sync

    def die(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise SystemExit
        sync(path)

    monkeypatch.setattr(copying, "sync", die)
    monkeypatch.setattr(restoring, "sync", die)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_a_backup_of_a_running_bot_is_complete_and_can_be_restored(
    data: Path, tmp_path: Path
) -> None:
    async with open_jobs(data) as store:
        ids = [await owl(store, seed) for seed in range(5)]
        stop = False

        async def write() -> None:
            seed = 100
            while not stop:
                await owl(store, seed)
                seed += 1

        writer = asyncio.create_task(write())
        for _ in range(4):
            await asyncio.to_thread(back_up, data, tmp_path / "copy")
            db = sqlite3.connect(tmp_path / "copy" / DATABASE_NAME)
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            kept = {sha for (sha,) in db.execute(KEPT)}
            assert db.execute("SELECT * FROM pictures WHERE state = 'removing'").fetchall() == []
            db.close()
            assert kept == pictures(tmp_path / "copy")
        stop = True
        await writer
    copied = await asyncio.to_thread(restore, tmp_path / "copy", tmp_path / "new")
    assert copied.lost == ()
    async with open_jobs(tmp_path / "new") as store:
        for job_id in ids:
            (image,) = await store.images(job_id)
            assert await store.read(image)
        assert ids[0] in [entry.job_id for entry in await history(store, 1, "owl 0", 5)]


async def test_copying_the_database_of_a_backup_by_hand_loses_no_picture(
    data: Path, tmp_path: Path
) -> None:
    async with open_jobs(data) as store:
        job = await store.add(new_job(request=request("an owl")))
        await store.start(job.id)
        images = finished(job.request)
        await store._db.run(lambda db: rows.announce_files(db, rows.files_of(images)))
        back_up(data, tmp_path / "copy")
        await store.complete(job.id, images)
        (image,) = await store.images(job.id)
    shutil.copy(tmp_path / "copy" / DATABASE_NAME, data / DATABASE_NAME)
    async with open_jobs(data):
        assert pictures(data) | pictures(data, UNKNOWN_NAME) == {image.sha256}


async def test_an_id_that_was_assigned_after_the_backup_is_not_assigned_again(
    data: Path, tmp_path: Path
) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        back_up(data, tmp_path / "copy")
        given = [await owl(store, seed) for seed in range(2, 6)]
    restore(tmp_path / "copy", data, replace=True)
    async with open_jobs(data) as store:
        assert await owl(store, 9) > max(given)


async def test_a_second_backup_copies_new_pictures_and_removes_deleted_ones(
    data: Path, tmp_path: Path
) -> None:
    async with open_jobs(data) as store:
        first = await owl(store, 1)
        await owl(store, 2)
        assert back_up(data, tmp_path / "copy").added == 2
        await store.delete(first)
        await owl(store, 3)
        copied = back_up(data, tmp_path / "copy")
        assert (copied.pictures, copied.added, copied.lost) == (2, 1, ())
        assert pictures(tmp_path / "copy") == pictures(data)


async def test_a_damaged_picture_of_the_backup_is_copied_again_and_a_lost_one_is_reported(
    data: Path, tmp_path: Path
) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        await owl(store, 2)
        back_up(data, tmp_path / "copy")
        spoilt, lost = sorted(pictures(data))
        file = PictureFiles(tmp_path / "copy" / "pictures").path(spoilt)
        file.unlink()
        file.write_bytes(b"half")
        PictureFiles(data / "pictures").path(lost).unlink()
        PictureFiles(tmp_path / "copy" / "pictures").path(lost).unlink()
        copied = back_up(data, tmp_path / "copy")
    assert (copied.pictures, copied.added, copied.lost) == (1, 1, (lost,))


async def test_pictures_that_are_removed_during_a_backup_are_not_in_the_backup(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jobs(data) as store:
        first = await owl(store, 1)
        await owl(store, 2)
        copy_pictures = create.copy_pictures
        loop, snapshots = asyncio.get_running_loop(), 0

        def copy_late(*folders: Path) -> tuple[int, int, tuple[str, ...]]:
            nonlocal snapshots
            snapshots += 1
            asyncio.run_coroutine_threadsafe(store.delete(first), loop).result(10)
            return copy_pictures(*folders)

        monkeypatch.setattr(create, "copy_pictures", copy_late)
        copied = await asyncio.to_thread(back_up, data, tmp_path / "copy")
    assert (snapshots, copied.pictures, copied.lost) == (2, 1, ())
    assert len(pictures(tmp_path / "copy")) == 1


async def test_a_backup_has_the_permissions_of_the_data_folder(data: Path, tmp_path: Path) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        os.chmod(data, 0o700)  # noqa: PTH101
        os.chmod(data / DATABASE_NAME, 0o600)  # noqa: PTH101
        back_up(data, tmp_path / "copy")
    for folder in (tmp_path / "copy", tmp_path / "copy" / "pictures"):
        assert folder.stat().st_mode & 0o077 == 0
    assert (tmp_path / "copy" / DATABASE_NAME).stat().st_mode & 0o077 == 0


async def test_a_backup_is_refused_in_any_other_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist; name the bot's folder"):
        back_up(data, tmp_path / "copy")
    assert tree(tmp_path) == {}
    async with open_jobs(data) as store:
        await owl(store, 1)
        other = tmp_path / "letters"
        other.mkdir()
        (other / "letter.txt").write_text("Dear")
        before = tree(data)
        for target, why in (
            (other, "is not empty and is not a backup; name a new or an empty folder"),
            (data, "must not contain each other"),
            (data / "backup", "must not contain each other"),
            (tmp_path, "must not contain each other"),
        ):
            with pytest.raises(BackupRefused, match=why):
                back_up(data, target)
        assert tree(data).keys() == before.keys()
        assert tree(other) == {"letter.txt": b"Dear"}


async def test_a_backup_on_a_full_disk_is_refused_and_keeps_the_earlier_one(
    data: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        async with open_jobs(data) as store:
            await owl(store, 1)
            back_up(data, disk / "copy")
            earlier = tree(disk / "copy")
            await owl(store, 2)
            fill(disk)
            with pytest.raises(BackupRefused, match=r"needs \d+ MB of free space"):
                back_up(data, disk / "copy")
        assert tree(disk / "copy") == earlier


@pytest.mark.parametrize("call", range(1, 12, 2))
async def test_a_killed_backup_does_not_count_as_a_backup(
    data: Path, tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        await owl(store, 2)
    copy = tmp_path / "copy"
    die_at_sync(call, monkeypatch)
    try:
        back_up(data, copy)
    except SystemExit:
        if not (copy / DATABASE_NAME).exists():
            with pytest.raises(BackupRefused, match="is not a complete backup"):
                restore(copy, tmp_path / "new")
    monkeypatch.undo()
    if (copy / DATABASE_NAME).exists():
        assert restore(copy, tmp_path / "new").lost == ()
    assert back_up(data, copy).pictures == 2


@pytest.mark.parametrize("call", range(1, 14))
async def test_a_killed_restore_loses_nothing_and_can_be_repeated(
    data: Path, tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        back_up(data, tmp_path / "copy")
        await owl(store, 2)
    before = pictures(data)
    die_at_sync(call, monkeypatch)
    try:
        restore(tmp_path / "copy", data, replace=True)
    except SystemExit:
        if (data / "restoring").exists():
            with pytest.raises(BackupRefused, match="interrupted; run `imagine-bot restore` again"):
                async with open_jobs(data):
                    pass
        monkeypatch.undo()
        restore(tmp_path / "copy", data, replace=True)
    assert {Path(name).stem for name in tree(data) if name.endswith(".png")} == before
    async with open_jobs(data) as store:
        assert [entry.prompt for entry in await history(store, 1, "", 9)] == ["owl 1"]


async def test_a_restore_moves_existing_files_aside_only_with_replace(
    data: Path, tmp_path: Path
) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        back_up(data, tmp_path / "copy")
        await owl(store, 2)
        with pytest.raises(FolderInUse):
            restore(tmp_path / "copy", data, replace=True)
    with pytest.raises(BackupRefused, match="use --replace to move them into a folder"):
        restore(tmp_path / "copy", data)
    copied = restore(tmp_path / "copy", data, replace=True)
    assert copied.aside is not None
    assert len(pictures(copied.aside)) == 2
    async with open_jobs(data) as store:
        assert len(await history(store, 1, "", 9)) == 1


async def test_a_damaged_backup_is_not_restored(data: Path, tmp_path: Path) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        back_up(data, tmp_path / "copy")
    for target in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BackupRefused):
            restore(target, tmp_path / "new")
    database = tmp_path / "copy" / DATABASE_NAME
    whole = database.read_bytes()
    database.write_bytes(whole[: 5 * 4096] + bytes(20 * 4096) + whole[25 * 4096 :])
    before = tree(data)
    with pytest.raises(DatabaseDamaged):
        restore(tmp_path / "copy", data, replace=True)
    assert tree(data) == before


async def test_a_damaged_database_does_not_replace_a_good_backup(
    data: Path, tmp_path: Path
) -> None:
    async with open_jobs(data) as store:
        await owl(store, 1)
        back_up(data, tmp_path / "copy")
    earlier = tree(tmp_path / "copy")
    database = data / DATABASE_NAME
    whole = database.read_bytes()
    database.write_bytes(whole[: 5 * 4096] + b"\xff" * (20 * 4096) + whole[25 * 4096 :])
    with pytest.raises(StorageError):
        back_up(data, tmp_path / "copy")
    assert tree(tmp_path / "copy") == earlier
