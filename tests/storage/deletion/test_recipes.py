"""Recipes of deleted jobs in picture files."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from generation.images.png import write_png
from storage.archive import Archive
from storage.deletion import jobs as deletion
from storage.deletion import recipes, remnants
from storage.errors import DiskFull
from storage.folder.layout import DATABASE_NAME
from storage.jobs import JobStore
from storage.pictures.files import PictureFiles
from storage.queries.conversion import recipe_to_json, request_to_json
from storage.records import JobKind, Removal, Remover
from storage.sqlite import migrator
from storage.upkeep import secure_deletion

from ..inspection import kept_pixels, open_jobs
from ..samples import new_job, pixels, recipe, request
from .secret_jobs import PROMPT, SEED, USER, asked, made, secrets_in, varied


async def test_a_deleted_picture_with_variations_is_kept_without_its_recipe(
    store: JobStore, tmp_path: Path
) -> None:
    parent = await made(store)
    source = pixels(parent.request.seed)
    child = await made(
        store,
        user_id=1,
        origin=None,
        kind=JobKind.VARY,
        parent_image_id=1,
        request=request("a fox", source=source, strength=0.5, seed=5),
    )
    await store.delete(parent.id, Removal(Remover.OWNER, USER))
    await store.message_removed(parent.id)
    await store._secure_deletion.run()
    assert list(secrets_in(tmp_path)) == []
    again = await store.get(child.id)
    assert again is not None
    assert again.request.source == source
    assert await kept_pixels(store, source.sha256) == source
    with Archive(tmp_path) as archive:
        assert archive.source_pixels(source.sha256) == source
    await store.delete(child.id)
    assert [path for path in (tmp_path / "pictures").glob("??/*") if path.is_file()] == []


async def test_other_writes_do_not_wait_while_a_recipe_is_stripped(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, source = await varied(store)
    reading, go_on = threading.Event(), threading.Event()
    without_recipe = recipes.strip_recipe

    def slow(*values: Any) -> Any:
        reading.set()
        assert go_on.wait(10)
        return without_recipe(*values)

    monkeypatch.setattr(recipes, "strip_recipe", slow)
    async with asyncio.timeout(10):
        await store.delete(parent.id)
        assert await asyncio.to_thread(reading.wait, 10)
        job = await store.add(new_job())
        assert await store.get(job.id) == job
    go_on.set()
    await store.message_removed(parent.id)
    await store._secure_deletion.run()
    assert list(secrets_in(tmp_path)) == []
    assert await kept_pixels(store, source.sha256) == source


async def test_a_picture_that_is_made_again_during_stripping_keeps_its_recipe(
    store: JobStore,
) -> None:
    parent, source = await varied(store)
    (image,) = await store.images(parent.id)
    await store._db.run(lambda db: deletion.forget(db, parent.id, None))
    bare = recipes.strip_recipe(store._pictures, image.sha256)
    again = await made(store)
    files = set(store._pictures.folder.glob("??/*.png"))
    await store._db.run(lambda db: recipes.replace_file(db, store._pictures, image.sha256, bare))
    assert await store._db.run(recipes.next_picture) is None
    (kept,) = await store.images(again.id)
    assert kept.sha256 == image.sha256
    assert await store.read(kept)
    assert set(store._pictures.folder.glob("??/*.png")) == files
    assert await kept_pixels(store, source.sha256) == source


async def test_each_picture_is_stripped_in_a_transaction_of_its_own(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = [await varied(store, seed=SEED + 10 * number) for number in range(3)]
    for parent, _ in parents:
        await store._db.run(lambda db, job_id=parent.id: deletion.forget(db, job_id, None))
    write = PictureFiles.write
    written = 0

    def write_one(files: PictureFiles, data: bytes) -> str:
        nonlocal written
        written += 1
        if written > 1:
            raise DiskFull(tmp_path)
        return write(files, data)

    with monkeypatch.context() as patch:
        patch.setattr(PictureFiles, "write", write_one)
        with pytest.raises(DiskFull):
            await store._secure_deletion.run()
    left = await store._db.run(
        lambda db: db.execute("SELECT count(*) FROM images WHERE recipe = '[]'").fetchone()
    )
    assert left == (2,)
    await store._secure_deletion.run()
    assert await store._db.run(recipes.next_picture) is None
    for _, source in parents:
        assert await kept_pixels(store, source.sha256) == source


async def test_images_without_files_are_skipped_in_portions(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "_ROWS", 2)
    jobs = [await made(store, request=asked(seed=SEED + 10 * number)) for number in range(3)]
    for job in jobs:
        await store._db.run(lambda db, job_id=job.id: deletion.forget(db, job_id, None))
    assert await store._db.run(recipes.skip_finished)
    assert await store._db.run(recipes.has_recipes_left)
    assert not await store._db.run(recipes.skip_finished)
    assert not await store._db.run(recipes.has_recipes_left)


async def test_stripping_does_not_wait_for_the_next_merge_of_the_index(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure_deletion, "_PAUSE_MIN_SECONDS", 60.0)
    first = await made(store, request=asked(seed=7))
    await store.delete(first.id)
    async with asyncio.timeout(10):
        while not await store._db.run(remnants.is_clean):
            pass
        parent, source = await varied(store)
        (image,) = await store.images(parent.id)
        await store.delete(parent.id)
        while store._pictures.path(image.sha256).exists():
            await store.record(parent.id)
    assert await kept_pixels(store, source.sha256) == source
    assert not await store._db.run(remnants.is_clean)


async def test_on_a_full_disk_a_job_is_deleted_at_once_and_its_recipe_later(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = await made(store)
    source = pixels(parent.request.seed)
    await made(
        store,
        user_id=1,
        origin=None,
        parent_image_id=1,
        request=request("a fox", source=source, strength=0.5, seed=5),
    )

    def full(files: PictureFiles, data: bytes) -> str:
        raise DiskFull(tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(PictureFiles, "write", full)
        assert await store.delete(parent.id)
        assert await store.image(parent.id, 1) is None
    await store.message_removed(parent.id)
    await store._secure_deletion.run()
    assert list(secrets_in(tmp_path)) == []
    assert await kept_pixels(store, source.sha256) == source


async def test_the_same_picture_of_another_member_keeps_its_recipe(store: JobStore) -> None:
    first, second = await made(store), await made(store)
    await store.delete(first.id)
    (image,) = await store.images(second.id)
    assert image.recipe.prompt == PROMPT
    assert await store.read(image) == write_png(pixels(image.recipe.seed), image.recipe)


@pytest.mark.parametrize("is_called_clean", [False, True])
async def test_the_first_start_strips_recipes_of_pictures_deleted_by_an_older_version(
    tmp_path: Path, is_called_clean: bool
) -> None:
    result = pixels(SEED)
    made_of = recipe(asked(), 0, result)
    file = write_png(result, made_of)
    sha256 = PictureFiles(tmp_path / "pictures").write(file)
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA journal_mode = WAL")
    migrator.migrations().apply(db, stop_before=["m009_forgetting"])
    db["pictures"].insert({"sha256": sha256, "pixels_sha256": result.sha256})
    job = {
        "kind": "imagine",
        "status": "delivered",
        "channel_id": 1,
        "created_at": "2026-01-02T03:04:05+00:00",
        "token": "0" * 12,
    }
    db["jobs"].insert(
        {
            **job,
            "id": 1,
            "user_id": USER,
            "request": request_to_json(asked()),
            "deleted": 1,
            "message_removed": 1,
        }
    )
    db["images"].insert(
        {
            "id": 1,
            "job_id": 1,
            "index": 0,
            "sha256": sha256,
            "recipe": recipe_to_json(made_of),
            "deleted": 1,
        }
    )
    varied = request_to_json(request("a fox", source=result, strength=0.5))
    db["jobs"].insert({**job, "id": 2, "user_id": 1, "request": varied, "source_sha256": sha256})
    if is_called_clean:
        db.execute("PRAGMA secure_delete = ON")
        migrator.migrations().apply(db)
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert list(secrets_in(tmp_path))
    async with open_jobs(tmp_path) as store:
        assert await kept_pixels(store, result.sha256) == result
    assert list(secrets_in(tmp_path)) == []
    async with open_jobs(tmp_path) as store:
        assert await kept_pixels(store, result.sha256) == result
