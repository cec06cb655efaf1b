"""Damaged folders: the bot raises a sentence, never a traceback, and loses no sound data."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from bot.cli import data_folder
from storage.errors import DatabaseDamaged, StorageError
from storage.folder.layout import DATABASE_NAME, LOCK_NAME
from storage.pictures.files import PictureFiles
from storage.sqlite.readonly import opened_readonly

from ...damage import Damage, Sample, damages, survives
from ..inspection import history, open_jobs
from ..queries.test_history import show
from ..samples import new_job, pixels, request

PAGE = 4096


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return every file of a folder with its owner, size and modification time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        found[str(path)] = (status.st_uid, status.st_size, status.st_mtime_ns)
    return found


def there(folder: Path) -> set[Path]:
    return set(folder.glob("pictures/??/*.png"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return Sample.make(tmp_path_factory.mktemp("sample"))


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=damages())
def test_damage_ends_in_a_result_or_a_sentence_and_soon(
    sample: Sample, damage: list[Damage], tmp_path_factory: pytest.TempPathFactory
) -> None:
    survives(sample, damage, tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"\0" * 100 + data[100:],
        lambda data: data[: len(data) // 2],
        lambda data: data[: 6 * PAGE] + bytes(10 * PAGE) + data[16 * PAGE :],
        lambda data: data[: 3 * PAGE] + data[7 * PAGE : 8 * PAGE] + data[4 * PAGE :],
    ],
    ids=["header", "truncated", "zeroed", "spliced"],
)
async def test_a_damaged_database_is_refused_with_instructions(
    tmp_path: Path, spoil: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_jobs(tmp_path) as store:
        for seed in range(3):
            await show(store, f"owl {seed}", request=request(f"owl {seed}", seed=seed))
    path = tmp_path / DATABASE_NAME
    path.write_bytes(spoil(path.read_bytes()))
    spoilt = path.read_bytes()
    with pytest.raises(StorageError, match="`imagine-bot restore` with your backup"):
        async with open_jobs(tmp_path):
            pass
    assert path.read_bytes()[PAGE:] == spoilt[PAGE:]
    text, fix = data_folder.check_or_explain(tmp_path)
    assert text == "the data folder cannot be used"
    assert "`imagine-bot restore` with your backup" in fix


@pytest.mark.parametrize("is_removed", [True, False])
async def test_a_missing_database_is_not_silently_created_again(
    tmp_path: Path, sample: Sample, is_removed: bool
) -> None:
    data = Path(shutil.copytree(sample.live, tmp_path / "data"))
    path = data / DATABASE_NAME
    path.unlink() if is_removed else path.write_bytes(b"")
    before = state(data)
    with pytest.raises(StorageError, match="`imagine-bot restore` with your backup"):
        async with open_jobs(data):
            pass
    assert data_folder.check_or_explain(data)[1]
    after = state(data)
    assert {name for name in before if before[name] != after[name]} <= {str(data / LOCK_NAME)}


async def test_a_database_that_is_found_damaged_accepts_no_new_jobs(tmp_path: Path) -> None:
    async with open_jobs(tmp_path) as store:
        job = await store.add(new_job("owl"))

        def meet_damage(_: object) -> None:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        with pytest.raises(DatabaseDamaged, match="is damaged; stop the bot and run"):
            await store._db.run(meet_damage)
        with pytest.raises(DatabaseDamaged):
            await store.add(new_job("cat"))
        assert await store.start(job.id)


async def test_doctor_counts_missing_files_and_orphans(tmp_path: Path) -> None:
    async with open_jobs(tmp_path) as store:
        await show(store, "owl")
        await store.add(new_job(request=request(source=pixels(5), strength=0.5)))
    assert data_folder.check_or_explain(tmp_path) == (
        f"{tmp_path} can be written; it is intact",
        "",
    )
    files = PictureFiles(tmp_path / "pictures")
    files.write(b"left")
    for number in range(3):
        files.write(b"%d" % number)
    text, fix = data_folder.check_or_explain(tmp_path)
    assert "knows only 2 of the picture files; the next start moves the other 4" in text
    assert fix
    for path in there(tmp_path):
        path.unlink()
    text, fix = data_folder.check_or_explain(tmp_path)
    assert "2 of the 2 picture files that it names are missing" in text
    assert "backup" in fix


@pytest.mark.parametrize("is_running", [True, False])
async def test_doctor_and_replay_write_nothing(tmp_path: Path, is_running: bool) -> None:
    data = tmp_path / "data"
    async with open_jobs(data) as store:
        await show(store, "owl")
        if is_running:
            before = state(data)
            text, _ = data_folder.check_or_explain(data)
            assert "is in use by a running bot" in text
            with opened_readonly(data / DATABASE_NAME) as db:
                assert db["jobs"].count == 1
            after = state(data)
            assert after.keys() == before.keys()
            assert [v[:2] for v in after.values()] == [v[:2] for v in before.values()]
            return
    before = state(data)
    assert data_folder.check_or_explain(data)[1] == ""
    with opened_readonly(data / DATABASE_NAME) as db:
        assert db["jobs"].count == 1
    assert state(data) == before


async def test_doctor_leaves_an_empty_folder_empty(tmp_path: Path) -> None:
    data_folder.check_or_explain(tmp_path)
    assert state(tmp_path) == {}


async def test_a_log_without_shared_memory_is_read_and_not_changed(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    async with open_jobs(tmp_path / "data") as store:
        await show(store, "owl")
        for end in ("", "-wal"):
            name = f"{DATABASE_NAME}{end}"
            (copy / name).write_bytes((tmp_path / "data" / name).read_bytes())
    before = state(copy)
    with opened_readonly(copy / DATABASE_NAME) as db:
        assert db["jobs"].count == 1
    assert state(copy) == before


@pytest.mark.parametrize(
    "value",
    [
        "X'80'",
        "'{\"count\": \x01'",
        "'[]'",
        "'{}'",
        "''",
        "'{\"prompt\": 7}'",
        "'" + "[" * 3_000 + "'",
    ],
    ids=["no text", "a control character", "a list", "nothing", "empty", "a number", "deep"],
)
@pytest.mark.parametrize(
    "column", ["jobs.request", "jobs.created_at", "jobs.kind", "images.recipe"]
)
async def test_a_row_that_cannot_be_read_hides_no_other(
    tmp_path: Path, column: str, value: str
) -> None:
    async with open_jobs(tmp_path) as store:
        for _ in range(2):
            await show(store, "a cute rabbit")
    table, name = column.split(".")
    where = "id" if table == "jobs" else "job_id"
    with sqlite3.connect(tmp_path / DATABASE_NAME) as db:
        # The triggers of the search index would refuse this row; damage bypasses triggers.
        for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(f"UPDATE {table} SET {name} = CAST({value} AS TEXT) WHERE {where} = 1")
    db.close()
    async with open_jobs(tmp_path) as store:
        for query in ("", "rabbit", "1", "2"):
            try:
                found = {entry.job_id for entry in await history(store, 1, query, 10)}
            except DatabaseDamaged:
                assert value == "X'80'"
            else:
                assert 2 in found or query == "1"
        for ask in (store.get, store.record, store.images):
            with contextlib.suppress(StorageError):
                await ask(1)
            assert await ask(2)
