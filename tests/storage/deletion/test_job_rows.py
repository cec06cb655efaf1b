"""What the rows keep of deleted, cancelled and failed jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from generation.values.recipe import GeneratedImage
from storage.errors import FolderUnusable, PictureMissing
from storage.jobs import JobStore
from storage.pictures.files import PictureFiles
from storage.pictures.plain_png import encode_png
from storage.records import Removal, Remover
from storage.states import JobStatus

from ..inspection import kept_pixels
from ..samples import new_job, pixels, recipe, request
from .secret_jobs import PROMPT, USER, made, state_of


async def test_a_deleted_job_keeps_only_what_the_deletion_of_its_message_needs(
    store: JobStore,
) -> None:
    job = await made(store)
    await store.delete(job.id, Removal(Remover.MODERATOR, 77))
    (left,) = await store.deleted_with_message()
    assert (left.guild_id, left.channel_id, left.message_id) == (2, 3, 555_001)
    assert (left.user_id, left.origin, left.request.prompt) == (0, None, "(deleted)")
    assert left.ended_by == Removal(Remover.MODERATOR, 77)
    await store.message_removed(job.id)
    gone = await store.record(job.id)
    assert gone is not None
    assert (gone.guild_id, gone.channel_id, gone.message_id) == (None, 0, None)
    assert (gone.deleted, gone.status) == (True, JobStatus.DELIVERED)
    assert [image.recipe.prompt for image in await store.images(job.id)] == ["(deleted)"]


async def test_the_id_of_an_owner_who_deleted_a_job_is_not_kept(store: JobStore) -> None:
    job = await made(store)
    await store.delete(job.id, Removal(Remover.OWNER, USER))
    gone = await store.record(job.id)
    assert gone is not None
    assert gone.ended_by == Removal(Remover.OWNER)


async def test_a_file_counts_as_removed_when_its_folder_is_synced(
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


@pytest.mark.parametrize("end", ["cancel", "fail"])
async def test_the_upload_of_a_failed_or_cancelled_job_is_removed(
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


async def test_a_cancelled_variation_keeps_its_parent_picture(store: JobStore) -> None:
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


async def test_a_job_that_failed_only_in_its_delivery_keeps_its_source(store: JobStore) -> None:
    upload = request(PROMPT, source=pixels(8), strength=0.5)
    job = await store.add(new_job(request=upload))
    await store.start(job.id)
    result = pixels(9)
    image = GeneratedImage(index=0, pixels=result, recipe=recipe(job.request, 0, result))
    await store.complete(job.id, [(image, encode_png(result))])
    assert await store.fail(job.id, "Nobody can see it.")
    assert await kept_pixels(store, pixels(8).sha256) == pixels(8)
