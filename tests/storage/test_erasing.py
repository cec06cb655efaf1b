"""What was deleted stands in no file of the data folder: its raw bytes are searched for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from generation.metadata import to_png as to_png_with_recipe
from generation.request import GeneratedImage
from storage import erasing, migrations
from storage.archive import Archive
from storage.database import open_readonly
from storage.errors import DiskFull, PictureMissing
from storage.jobs import Job, JobStatus, JobStore
from storage.opening import DATABASE_NAME, open_storage
from storage.pictures import PictureFiles, to_png
from storage.records import JobKind, Removal, Remover, request_to_json

from .samples import new_job, pixels, recipe, request

PROMPT = "zyzzogeton quokkafant"
NEGATIVE = "blixenhorn"
# Each alone would give it away, in whatever form: the index keeps the words apart.
SECRETS = ("zyzzogeton", "quokkafant", "blixenhorn")
SEED = 3_987_654_321
USER = 874_650_912_345_678_901
ORIGIN = "interaction:912345678901234567"


def asked(**values: Any) -> Any:
    return request(PROMPT, negative_prompt=NEGATIVE, seed=SEED, **values)


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


def remnants(folder: Path) -> Iterator[str]:
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
    async with open_storage(tmp_path) as store:
        others = [await store.add(new_job(f"rabbit number {n}")) for n in range(30)]
        job = await made(store)
        after = await made(store, request=request("an owl"), user_id=1, origin=None)
        assert list(remnants(tmp_path))
        await store.delete(job.id, Removal(Remover.OWNER, USER))
        await store.message_removed(job.id)
        assert await store._eraser.erase()
        assert list(remnants(tmp_path)) == []
        assert [entry.job_id for entry in await store.history(1, "owl", 5)] == [after.id]
        assert await store.get(others[0].id) == others[0]
    assert list(remnants(tmp_path)) == []


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
    task = store._eraser._task
    assert task is not None
    while not erasing.is_clean(open_readonly(tmp_path / DATABASE_NAME)):
        assert not task.done()
        await store.counts()
    await store._eraser.erase()
    assert list(remnants(tmp_path)) == []


async def test_a_reader_is_waited_for_by_nobody_and_the_log_is_emptied_after_it(
    store: JobStore, tmp_path: Path
) -> None:
    job = await made(store)
    with closing(open_readonly(tmp_path / DATABASE_NAME)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()
        await store.delete(job.id)
        assert not await store._eraser.erase()
    await store.message_removed(job.id)
    assert await store._eraser.erase()
    assert list(remnants(tmp_path)) == []


async def test_what_a_crash_left_in_the_index_is_erased_after_the_next_start(
    tmp_path: Path,
) -> None:
    async with open_storage(tmp_path) as store:
        await made(store, user_id=1, origin=None, request=request("an owl"))
        job = await made(store)
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA secure_delete = ON")
    assert erasing.forget(db, job.id, None)
    erasing.forget_message(db, job.id)
    assert not erasing.is_clean(db)
    db.close()
    async with open_storage(tmp_path):
        pass
    assert list(remnants(tmp_path)) == []


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
    await store._eraser.erase()
    assert list(remnants(tmp_path)) == []
    again = await store.get(child.id)
    assert again is not None
    assert again.request.source == source
    assert await store.source_pixels(source.sha256) == source
    with Archive(tmp_path) as archive:
        assert archive.source_pixels(source.sha256) == source
    await store.delete(child.id)
    assert [path for path in (tmp_path / "pictures").glob("??/*") if path.is_file()] == []


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
    await store._eraser.erase()
    assert list(remnants(tmp_path)) == []
    assert await store.source_pixels(source.sha256) == source


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
    await store.complete(job.id, [(image, to_png(result))])
    assert await store.fail(job.id, "Nobody can see it.")
    assert await store.source_pixels(pixels(8).sha256) == pixels(8)


async def test_what_an_older_version_deleted_is_forgotten_at_the_first_start(
    tmp_path: Path,
) -> None:
    db = sqlite_utils.Database(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA journal_mode = WAL")
    names = [step.__name__ for step in migrations.STEPS]
    migrations.migrations().apply(db, stop_before=["m006_search_by_member"])
    assert names.index("m006_search_by_member") < names.index("m009_forgetting")
    uploaded, bare = PictureFiles(tmp_path / "pictures"), to_png(pixels(8))
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
    assert list(remnants(tmp_path))
    async with open_storage(tmp_path) as store:
        assert list(remnants(tmp_path)) == []
        assert len(await store.history(1, "", 100)) == 40
        job = await store.record(1)
        assert job is not None
        assert (job.deleted, job.user_id) == (True, 0)
    assert not list((tmp_path / "pictures").glob("??/*"))
