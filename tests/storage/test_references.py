"""The references of a job: pictures that a model for editing looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from generation.images.png import write_png
from generation.values.pixels import Pixels, StoredPixels
from generation.values.recipe import GeneratedImage
from storage.errors import PictureMissing, SourceGone
from storage.jobs import JobStore
from storage.pictures.files import name_of
from storage.pictures.plain_png import encode_png
from storage.records import Job, Removal, Remover

from .deletion.secret_jobs import ORIGIN, USER, asked, secrets_in
from .inspection import kept_pixels, open_jobs
from .samples import new_job, pixels, recipe, request
from .stored_jobs import picture_files


def reference(seed: int, width: int = 64, height: int = 80) -> Pixels:
    return Pixels(width, height, bytes((seed + n) % 256 for n in range(3 * width * height)))


def an_edit(*references: Pixels, **values: Any) -> Any:
    return new_job(request=request("make it winter", references=references, **values))


async def finish(store: JobStore, job: Job, picture: Pixels, file: bytes) -> None:
    assert await store.start(job.id)
    image = GeneratedImage(index=0, pixels=picture, recipe=recipe(job.request, 0, picture))
    assert await store.complete(job.id, [(image, file)])


async def test_a_job_outlives_the_process_with_its_references_in_their_order(
    tmp_path: Path,
) -> None:
    first, second = reference(1), reference(2, 96, 64)
    # The same picture may be needed twice, also as the source.
    source = {"source": pixels(7), "strength": 0.5}
    async with open_jobs(tmp_path) as store:
        job = await store.add(an_edit(second, first, second, **source))
        assert job.request.references == (second, first, second)
        assert len(picture_files(tmp_path)) == 3
    async with open_jobs(tmp_path) as store:
        assert await store.get(job.id) == job
        assert await store.request_of(job.id) == job.request
        ((waiting, error),) = await store.unfinished()
        assert error is None
        assert waiting == job.without_pixels()
        sizes = StoredPixels(96, 64), StoredPixels(64, 80)
        assert waiting.request.references == (sizes[0], sizes[1], sizes[0])


async def test_the_record_of_a_job_says_how_many_references_it_has(store: JobStore) -> None:
    job = await store.add(an_edit(reference(1), reference(2)))
    record = await store.record(job.id)
    assert record is not None
    assert record.has_upload
    assert record.request.references == (StoredPixels(64, 80),) * 2


async def test_a_reference_without_its_file_is_the_fault_of_its_job_alone(store: JobStore) -> None:
    lost = await store.add(an_edit(reference(1), reference(2)))
    store._pictures.path(name_of(encode_png(reference(2)))).unlink()
    sound = await store.add(an_edit(reference(1)))
    found = {job.id: error for job, error in await store.unfinished()}
    assert isinstance(found[lost.id], PictureMissing)
    assert found[sound.id] is None
    with pytest.raises(PictureMissing):
        await store.request_of(lost.id)


@pytest.mark.parametrize("end", ["cancel", "fail", "delete"])
async def test_the_references_of_a_job_go_with_the_last_job_that_needs_them(
    store: JobStore, tmp_path: Path, end: str
) -> None:
    first = await store.add(an_edit(reference(1), reference(2)))
    second = await store.add(an_edit(reference(2)))
    ends = {
        "cancel": store.cancel,
        "delete": store.delete,
        "fail": lambda number: store.fail(number, "No."),
    }
    assert await ends[end](first.id)
    assert len(picture_files(tmp_path)) == 1
    assert await store.get(second.id) == second
    assert await ends[end](second.id)
    assert not picture_files(tmp_path)


async def test_a_finished_job_keeps_its_references_until_it_is_deleted(
    store: JobStore, tmp_path: Path
) -> None:
    job = await store.add(an_edit(reference(1)))
    await finish(store, job, pixels(9), encode_png(pixels(9)))
    assert await store.fail(job.id, "Nobody can see it.")
    assert await kept_pixels(store, reference(1).sha256) == reference(1)
    assert await store.delete(job.id)
    assert not picture_files(tmp_path)
    with pytest.raises(SourceGone):
        await store.request_of(job.id)


async def test_a_picture_stays_while_it_is_the_reference_of_another_job(store: JobStore) -> None:
    source = {"source": pixels(7), "strength": 0.5}
    varied = await store.add(new_job(request=request(**source)))
    large = Pixels(64, 64, bytes(3 * 64 * 64))
    both = await store.add(an_edit(large))
    other = await store.add(
        new_job(request=request(source=large, strength=0.5, width=64, height=64))
    )
    for job in (varied, other):
        assert await store.delete(job.id)
    assert await store.get(both.id) == both


async def test_a_deleted_picture_that_is_a_reference_is_kept_without_its_recipe(
    store: JobStore, tmp_path: Path
) -> None:
    picture = reference(3)
    parent = await store.add(new_job(request=asked(), user_id=USER, origin=ORIGIN))
    await finish(store, parent, picture, write_png(picture, recipe(parent.request, 0, picture)))
    child = await store.add(an_edit(picture, seed=5))
    await store.delete(parent.id, Removal(Remover.OWNER, USER))
    await store.message_removed(parent.id)
    assert list(secrets_in(tmp_path)) != []
    await store._secure_deletion.run()
    assert list(secrets_in(tmp_path)) == []
    again = await store.get(child.id)
    assert again is not None
    assert again.request.references == (picture,)
