"""What was deleted stands in no file of the data folder: its raw bytes are searched for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from generation.images.png import to_png as to_png_with_recipe
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from storage.archive import Archive
from storage.database import open_readonly
from storage.deletion import jobs as deletion
from storage.deletion import recipes, remnants
from storage.errors import DiskFull, FolderUnusable, PictureMissing
from storage.folder.layout import DATABASE_NAME
from storage.jobs import JobStore
from storage.pictures.files import PictureFiles
from storage.pictures.png import encode_png
from storage.queries.conversion import recipe_to_json, request_to_json
from storage.records import Job, JobKind, Removal, Remover
from storage.sqlite import migrations
from storage.states import JobStatus
from storage.upkeep import secure_deletion

from ..inspection import history, kept_pixels, open_jobs
from ..samples import new_job, pixels, recipe, request

PROMPT = "zyzzogeton quokkafant"
NEGATIVE = "blixenhorn"
# Each alone would give it away, in whatever form: the index keeps the words apart.
SECRETS = ("zyzzogeton", "quokkafant", "blixenhorn")
SEED = 3_987_654_321
USER = 874_650_912_345_678_901
ORIGIN = "interaction:912345678901234567"


def asked(**values: Any) -> Any:
    return request(PROMPT, **{"negative_prompt": NEGATIVE, "seed": SEED, **values})


async def made(store: JobStore, **values: Any) -> Job:
    """Return a delivered job with files that carry their recipes, as the bot writes them."""
    values = {"request": asked(), "user_id": USER, "origin": ORIGIN, **values}
    job = await store.add(new_job(**values))
    await store.start(job.id)
    images = []
    for index in range(job.request.count):
        result = pixels(job.request.seed + index)
        image = GeneratedImage(
            index=index, pixels=result, recipe=recipe(job.request, index, result)
        )
        images.append((image, to_png_with_recipe(result, image.recipe)))
    assert await store.complete(job.id, images)
    assert await store.delivered(job.id, 555_000 + job.id)
    return job


def secrets_in(folder: Path) -> Iterator[str]:
    """Yield where a secret of the deleted job stands, in clear or as a number of SQLite's."""
    numbers = [
        USER.to_bytes(8, "big"),
        str(USER).encode(),
        b"912345678901234567",
        str(SEED).encode(),
    ]
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            for secret in [*(word.encode() for word in SECRETS), *numbers]:
                if secret in data:
                    yield f"{secret!r} in {path.name}"


async def test_nothing_of_a_deleted_job_is_left_in_any_file(tmp_path: Path) -> None:
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


async def test_what_a_job_needs_to_lose_its_message_is_all_that_is_kept_of_it(
    store: JobStore,
) -> None:
    job = await made(store)
    await store.delete(job.id, Removal(Remover.MODERATOR, 77))
    (left,) = await store.not_removed()
    assert (left.guild_id, left.channel_id, left.message_id) == (2, 3, 555_001)
    assert (left.user_id, left.origin, left.request.prompt) == (0, None, "(deleted)")
    assert left.ended_by == Removal(Remover.MODERATOR, 77)
    await store.message_removed(job.id)
    gone = await store.record(job.id)
    assert gone is not None
    assert (gone.guild_id, gone.channel_id, gone.message_id) == (None, 0, None)
    assert (gone.deleted, gone.status) == (True, JobStatus.DELIVERED)
    assert [image.recipe.prompt for image in await store.images(job.id)] == ["(deleted)"]


async def test_who_deleted_their_own_job_is_not_kept(store: JobStore) -> None:
    job = await made(store)
    await store.delete(job.id, Removal(Remover.OWNER, USER))
    gone = await store.record(job.id)
    assert gone is not None
    assert gone.ended_by == Removal(Remover.OWNER)


async def test_the_log_is_emptied_soon_after_a_deletion_while_the_bot_runs(
    store: JobStore, tmp_path: Path
) -> None:
    job = await made(store)
    await store.delete(job.id)
    await store.message_removed(job.id)
    task = store._secure_deletion._task
    assert task is not None
    # A question to the reading connection could be in the way of emptying the log.
    while not await store._db.run(remnants.is_clean):
        assert not task.done()
    await store._secure_deletion.run()
    assert list(secrets_in(tmp_path)) == []


async def test_a_reader_is_waited_for_by_nobody_and_the_log_is_emptied_after_it(
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


def forget_alone(folder: Path, job_id: int) -> sqlite_utils.Database:
    """Forget a job as a deletion begins, and return the connection, with the rest not done."""
    db = sqlite_utils.Database(sqlite3.connect(folder / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA secure_delete = ON")
    assert deletion.forget(db, job_id, None)
    deletion.forget_message(db, job_id)
    return db


async def test_what_a_crash_left_in_the_index_is_erased_after_the_next_start(
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


async def test_a_picture_that_others_varied_is_kept_without_its_recipe(
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


async def varied(store: JobStore, *, seed: int = SEED) -> tuple[Job, Pixels]:
    """Return a job of which somebody else has varied the picture, and that picture."""
    parent = await made(store, request=asked(seed=seed))
    source = pixels(seed)
    (image,) = await store.images(parent.id)
    await made(
        store,
        user_id=1,
        origin=None,
        kind=JobKind.VARY,
        parent_image_id=image.id,
        request=request("a fox", source=source, strength=0.5, seed=5),
    )
    return parent, source


async def test_the_bot_goes_on_storing_while_a_picture_is_written_again_without_its_recipe(
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


async def test_a_picture_that_somebody_makes_again_while_it_is_written_keeps_its_recipe(
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


async def test_each_picture_is_written_again_in_a_transaction_of_its_own(
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


async def test_images_whose_files_are_gone_are_passed_over_in_portions(
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


async def test_the_file_of_a_picture_does_not_wait_until_the_index_is_merged_once_more(
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


async def test_a_word_that_is_deleted_during_a_merge_is_merged_away_by_the_next(
    store: JobStore, tmp_path: Path
) -> None:
    first, second = await made(store), await made(store)
    run = store._db.run
    await run(lambda db: deletion.forget(db, first.id, None))
    merging = remnants.begin_merging
    while await run(merging):
        merging = remnants.continue_merging
    # It comes between the last step of the merge and the note that the merge is done.
    await run(lambda db: deletion.forget(db, second.id, None))
    assert await store._db.run_bare(remnants.empty_log)
    await run(remnants.end_merging)
    assert not await run(remnants.is_clean)
    for job in (first, second):
        await store.message_removed(job.id)
    assert await store._secure_deletion.run()
    assert await run(remnants.is_clean)
    assert list(secrets_in(tmp_path)) == []


async def test_a_merge_counts_once_the_log_is_empty(store: JobStore, tmp_path: Path) -> None:
    job = await made(store)
    with closing(open_readonly(tmp_path / DATABASE_NAME)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()
        await store._db.run(lambda db: deletion.forget(db, job.id, None))
        assert not await store._secure_deletion.run()
        assert not await store._db.run(remnants.is_clean)
    assert await store._secure_deletion.run()
    assert await store._db.run(remnants.is_clean)


async def test_a_merge_that_a_crash_cut_short_is_begun_again_at_the_next_start(
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


async def test_on_a_full_disk_a_job_is_deleted_all_the_same_and_its_recipe_goes_later(
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


async def test_a_file_counts_as_removed_once_that_is_on_disk(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(files: PictureFiles, names: list[str]) -> None:
        if names:
            raise FolderUnusable(tmp_path, "cannot be written")

    job = await made(store)
    (image,) = await store.images(job.id)
    with monkeypatch.context() as patch:
        patch.setattr(PictureFiles, "sync_names", refuse)
        assert await store.delete(job.id)
        assert await state_of(store, image.sha256) == "removing"
    await store._secure_deletion.run()
    assert await state_of(store, image.sha256) == "removed"


async def state_of(store: JobStore, sha256: str) -> str:
    return await store._db.run(lambda db: str(db["pictures"].get(sha256)["state"]))


async def test_the_same_picture_of_somebody_else_keeps_its_recipe(store: JobStore) -> None:
    first, second = await made(store), await made(store)
    await store.delete(first.id)
    (image,) = await store.images(second.id)
    assert image.recipe.prompt == PROMPT
    assert await store.read(image) == to_png_with_recipe(pixels(image.recipe.seed), image.recipe)


@pytest.mark.parametrize("end", ["cancel", "fail"])
async def test_the_source_of_an_upload_that_came_to_nothing_goes(
    store: JobStore, tmp_path: Path, end: str
) -> None:
    upload = request("a fox", source=pixels(8), strength=0.5)
    first = await store.add(new_job(request=upload))
    second = await store.add(new_job(request=upload))
    assert first.has_upload
    ending = {"cancel": store.cancel, "fail": lambda number: store.fail(number, "No.")}[end]
    assert await ending(first.id)
    assert (await store.get(second.id)) == second
    assert await ending(second.id)
    assert not list((tmp_path / "pictures").glob("??/*"))
    with pytest.raises(PictureMissing):
        await store.get(first.id)


async def test_a_cancelled_variation_leaves_the_picture_it_came_from(store: JobStore) -> None:
    parent = await made(store)
    source = request("a fox", source=pixels(parent.request.seed), strength=0.5)
    child = await store.add(new_job(request=source, parent_image_id=1))
    assert not child.has_upload
    assert await store.cancel(child.id, Removal(Remover.MODERATOR, 77))
    (image,) = await store.images(parent.id)
    assert await store.read(image)
    ended = await store.record(child.id)
    assert ended is not None
    assert ended.ended_by == Removal(Remover.MODERATOR, 77)


async def test_what_failed_in_its_delivery_only_keeps_its_source(store: JobStore) -> None:
    upload = request(PROMPT, source=pixels(8), strength=0.5)
    job = await store.add(new_job(request=upload))
    await store.start(job.id)
    result = pixels(9)
    image = GeneratedImage(index=0, pixels=result, recipe=recipe(job.request, 0, result))
    await store.complete(job.id, [(image, encode_png(result))])
    assert await store.fail(job.id, "Nobody can see it.")
    assert await kept_pixels(store, pixels(8).sha256) == pixels(8)


async def test_what_an_older_version_deleted_is_forgotten_at_the_first_start(
    tmp_path: Path,
) -> None:
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA journal_mode = WAL")
    names = [step.__name__ for step in migrations.STEPS]
    migrations.migrations().apply(db, stop_before=["m006_search_by_member"])
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
    # As that version did it, which left what it no longer needed in free pages.
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


@pytest.mark.parametrize("is_called_clean", [False, True])
async def test_the_recipe_of_a_picture_that_an_older_version_deleted_goes_at_the_next_start(
    tmp_path: Path, is_called_clean: bool
) -> None:
    result = pixels(SEED)
    made_of = recipe(asked(), 0, result)
    file = to_png_with_recipe(result, made_of)
    sha256 = PictureFiles(tmp_path / "pictures").write(file)
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA journal_mode = WAL")
    migrations.migrations().apply(db, stop_before=["m009_forgetting"])
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
        migrations.migrations().apply(db)
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert list(secrets_in(tmp_path))
    async with open_jobs(tmp_path) as store:
        assert await kept_pixels(store, result.sha256) == result
    assert list(secrets_in(tmp_path)) == []
    async with open_jobs(tmp_path) as store:
        assert await kept_pixels(store, result.sha256) == result
