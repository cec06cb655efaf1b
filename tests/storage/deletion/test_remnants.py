"""Remnants of deleted jobs in the bytes of the data folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_utils

from storage.deletion import jobs as deletion
from storage.deletion import remnants
from storage.folder.layout import DATABASE_NAME
from storage.jobs import JobStore
from storage.pictures.files import PictureFiles
from storage.pictures.plain_png import encode_png
from storage.queries.conversion import request_to_json
from storage.records import Removal, Remover
from storage.sqlite import migrations, migrator
from storage.sqlite.readonly import open_readonly

from ..inspection import history, open_jobs
from ..samples import new_job, pixels, request
from .secret_jobs import ORIGIN, PROMPT, USER, forget_alone, made, secrets_in


async def test_no_file_holds_the_content_of_a_deleted_job(tmp_path: Path) -> None:
    async with open_jobs(tmp_path) as store:
        others = [await store.add(new_job(f"rabbit number {n}")) for n in range(30)]
        job = await made(store)
        after = await made(store, request=request("an owl"), user_id=1, origin=None)
        assert list(secrets_in(tmp_path))
        await store.delete(job.id, Removal(Remover.OWNER, USER))
        await store.message_removed(job.id)
        assert await store._secure_deletion.run()
        assert list(secrets_in(tmp_path)) == []
        assert [entry.job_id for entry in await history(store, 1, "owl", 5)] == [after.id]
        assert await store.get(others[0].id) == others[0]
    assert list(secrets_in(tmp_path)) == []


async def test_the_log_is_emptied_soon_after_a_deletion(store: JobStore, tmp_path: Path) -> None:
    job = await made(store)
    await store.delete(job.id)
    await store.message_removed(job.id)
    task = store._secure_deletion._task
    assert task is not None
    # The writing connection, since a reader could block the emptying of the log.
    while not await store._db.run(remnants.is_clean):
        assert not task.done()
    await store._secure_deletion.run()
    assert list(secrets_in(tmp_path)) == []


async def test_the_log_is_emptied_after_a_reader_without_waiting_for_the_reader(
    store: JobStore, tmp_path: Path
) -> None:
    job = await made(store)
    with closing(open_readonly(tmp_path / DATABASE_NAME)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()
        await store.delete(job.id)
        assert not await store._secure_deletion.run()
    await store.message_removed(job.id)
    assert await store._secure_deletion.run()
    assert list(secrets_in(tmp_path)) == []


async def test_the_next_start_removes_deleted_words_that_a_crash_left_in_the_index(
    tmp_path: Path,
) -> None:
    async with open_jobs(tmp_path) as store:
        await made(store, user_id=1, origin=None, request=request("an owl"))
        job = await made(store)
    db = forget_alone(tmp_path, job.id)
    assert not remnants.is_clean(db)
    db.close()
    async with open_jobs(tmp_path):
        pass
    assert list(secrets_in(tmp_path)) == []


async def test_a_word_that_is_deleted_during_a_merge_is_removed_by_the_next_merge(
    store: JobStore, tmp_path: Path
) -> None:
    first, second = await made(store), await made(store)
    run = store._db.run
    await run(lambda db: deletion.forget(db, first.id, None))
    merging = remnants.begin_merging
    while await run(merging):
        merging = remnants.continue_merging
    # The deletion comes after the last step of the merge, and before its end is recorded.
    await run(lambda db: deletion.forget(db, second.id, None))
    assert await store._db.run_bare(remnants.empty_log)
    await run(remnants.end_merging)
    assert not await run(remnants.is_clean)
    for job in (first, second):
        await store.message_removed(job.id)
    assert await store._secure_deletion.run()
    assert await run(remnants.is_clean)
    assert list(secrets_in(tmp_path)) == []


async def test_the_database_is_clean_only_after_the_log_is_empty(
    store: JobStore, tmp_path: Path
) -> None:
    job = await made(store)
    with closing(open_readonly(tmp_path / DATABASE_NAME)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()
        await store._db.run(lambda db: deletion.forget(db, job.id, None))
        assert not await store._secure_deletion.run()
        assert not await store._db.run(remnants.is_clean)
    assert await store._secure_deletion.run()
    assert await store._db.run(remnants.is_clean)


async def test_the_next_start_repeats_a_merge_that_a_crash_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jobs(tmp_path) as store:
        await made(store, user_id=1, origin=None, request=request("an owl"))
        job = await made(store)
    db = forget_alone(tmp_path, job.id)
    monkeypatch.setattr(remnants, "_PAGES", 1)
    remnants.begin_merging(db)
    assert not remnants.is_clean(db)
    db.close()
    async with open_jobs(tmp_path):
        pass
    assert list(secrets_in(tmp_path)) == []
    assert remnants.is_clean(open_readonly(tmp_path / DATABASE_NAME))


async def test_the_first_start_removes_remnants_of_jobs_deleted_by_an_older_version(
    tmp_path: Path,
) -> None:
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA journal_mode = WAL")
    names = [step.__name__ for step in migrations.STEPS]
    migrator.migrations().apply(db, stop_before=["m006_search_by_member"])
    assert names.index("m006_search_by_member") < names.index("m009_forgetting")
    uploaded, bare = PictureFiles(tmp_path / "pictures"), encode_png(pixels(8))
    source = uploaded.write(bare)
    db.execute("INSERT INTO pictures (sha256, pixels_sha256) VALUES (?, ?)", (source, "c" * 64))
    rows = [(PROMPT, "delivered", None), ("red apple", "delivered", None)] * 40
    for number, (prompt, status, picture) in enumerate([*rows, ("x", "cancelled", source)]):
        db.execute(
            "INSERT INTO jobs (kind, status, user_id, channel_id, request, origin, created_at,"
            " message_id, source_sha256) VALUES ('imagine', ?, ?, 1, ?, ?,"
            " '2026-01-02T03:04:05+00:00', ?, ?)",
            (
                status,
                USER if prompt == PROMPT else 1,
                request_to_json(request(prompt)),
                ORIGIN if prompt == PROMPT else None,
                number,
                picture,
            ),
        )
    # That version did not overwrite free pages.
    for error in (f"{PROMPT} " * 1_000, None):
        db.execute("UPDATE jobs SET error = ? WHERE user_id = ?", (error, USER))
    db.execute("UPDATE jobs SET deleted = 1, message_removed = 1 WHERE user_id = ?", (USER,))
    db.close()
    assert list(secrets_in(tmp_path))
    async with open_jobs(tmp_path) as store:
        assert list(secrets_in(tmp_path)) == []
        assert len(await history(store, 1, "", 100)) == 40
        job = await store.record(1)
        assert job is not None
        assert (job.deleted, job.user_id) == (True, 0)
    assert not list((tmp_path / "pictures").glob("??/*"))
