from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.values.request import GenerationRequest
from storage.errors import PictureDamaged, StorageError
from storage.jobs import JobStore
from storage.queries.conversion import request_from_json, request_to_json
from storage.records import JobKind
from storage.states import JobStatus

from .inspection import kept_pixels, open_jobs, unfinished
from .samples import finished, new_job, pixels, request
from .stored_jobs import generated, picture_files


def _requests() -> st.SearchStrategy[GenerationRequest]:
    text = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=200)
    return st.builds(
        request,
        prompt=text.filter(lambda t: bool(t.strip())),
        negative_prompt=text,
        seed=st.integers(0, 2**32 - 1),
        guidance_scale=st.floats(1, 30) | st.integers(1, 30),
        steps=st.integers(1, 150),
        count=st.integers(1, 4),
    )


async def test_a_new_job_is_queued_and_holds_its_request(store: JobStore) -> None:
    new = new_job("a fox 🦊 — «là-bas»", origin="interaction:12345678901234567", weight=2.5)
    job = await store.add(new)
    assert job.status is JobStatus.QUEUED
    assert (job.attempts, job.error, job.message_id, job.deleted) == (0, None, None, False)
    assert datetime.now(UTC) - job.created_at < timedelta(minutes=1)
    assert job.created_at.utcoffset() == timedelta(0)
    assert {f.name: getattr(job, f.name) for f in dataclasses.fields(new)} == {
        f.name: getattr(new, f.name) for f in dataclasses.fields(new)
    }
    assert await store.get(job.id) == job


async def test_a_job_outlives_the_process_with_its_source(tmp_path: Path) -> None:
    asked = request(source=pixels(7), strength=0.6000000000000001, count=4)
    async with open_jobs(tmp_path) as store:
        job = await store.add(new_job(request=asked))
    async with open_jobs(tmp_path) as store:
        assert await store.get(job.id) == job
        # The sources of many unfinished jobs might not fit into memory.
        assert await unfinished(store) == [job.without_pixels()]
        assert await store.request_of(job.id) == asked
    assert job.request == asked


@given(_requests())
def test_a_request_survives_json(asked: GenerationRequest) -> None:
    stored = request_from_json(request_to_json(asked), None)
    assert stored == asked
    assert repr(stored.guidance_scale) == repr(asked.guidance_scale)


@settings(max_examples=10, deadline=None)
@given(asked=_requests())
async def test_any_request_survives_the_database(
    tmp_path_factory: pytest.TempPathFactory, asked: GenerationRequest
) -> None:
    async with open_jobs(tmp_path_factory.mktemp("data")) as store:
        job = await store.add(new_job(request=asked))
        stored = await store.get(job.id)
    assert stored is not None
    assert stored.request == asked


async def test_two_jobs_of_one_origin_are_two_jobs(store: JobStore) -> None:
    first = await store.add(new_job(origin="reaction:1:2:🔁"))
    second = await store.add(new_job(origin="reaction:1:2:🔁"))
    assert first.id != second.id


async def test_every_job_has_a_token_of_its_own_that_stays(store: JobStore) -> None:
    jobs = [await store.add(new_job()) for _ in range(3)]
    assert len({job.token for job in jobs}) == len(jobs)
    assert all(len(job.token) == 12 for job in jobs)
    assert [(await store.record(job.id)) for job in jobs] == jobs


async def test_a_job_is_found_by_the_message_that_shows_it(store: JobStore) -> None:
    job = await store.add(new_job())
    assert await store.by_message(99) is None
    await store.set_message(job.id, 99)
    found = await store.by_message(99)
    assert found == dataclasses.replace(job, message_id=99)


async def test_numbers_too_large_for_sqlite_find_nothing(store: JobStore) -> None:
    assert await store.get(10**30) is None
    assert await store.images(10**30) == []
    assert await store.image(10**30, 1) is None


async def test_a_job_goes_from_queued_to_delivered(store: JobStore) -> None:
    job = await store.add(new_job())
    assert await store.start(job.id)
    assert await store.complete(job.id, finished(job.request))
    assert await store.delivered(job.id, 555)
    done = await store.get(job.id)
    assert done == dataclasses.replace(job, status=JobStatus.DELIVERED, attempts=1, message_id=555)
    assert await unfinished(store) == []


async def test_each_start_of_a_job_counts_as_an_attempt(store: JobStore) -> None:
    job = await store.add(new_job())
    assert await store.start(job.id)
    assert await store.start(job.id)
    again = await store.get(job.id)
    assert again is not None
    assert again.attempts == 2


async def test_a_failed_job_keeps_its_first_error(store: JobStore) -> None:
    job = await store.add(new_job())
    assert await store.fail(job.id, "The model broke; try again.")
    assert not await store.fail(job.id, "Something else.")
    failed = await store.get(job.id)
    assert failed is not None
    assert (failed.status, failed.error) == (JobStatus.FAILED, "The model broke; try again.")


async def test_an_error_for_later_changes_no_status_and_is_ignored_with_pictures(
    store: JobStore,
) -> None:
    untold, made = await store.add(new_job()), await generated(store)
    over = await store.add(new_job())
    assert await store.cancel(over.id)
    for job in (untold, made, over):
        await store.set_error(job.id, "It broke.")
    found = [await store.record(job.id) for job in (untold, made, over)]
    assert [(job.status, job.error) for job in found if job] == [
        (JobStatus.QUEUED, "It broke."),
        (JobStatus.GENERATED, None),
        (JobStatus.CANCELLED, None),
    ]
    assert [job.id for job in await unfinished(store)] == [untold.id, made.id]
    assert await store.fail(untold.id, "It broke.")


async def test_images_are_returned_byte_for_byte_with_their_recipes(store: JobStore) -> None:
    job = await store.add(new_job(request=request(count=4)))
    await store.start(job.id)
    made = finished(job.request)
    await store.complete(job.id, made)
    images = await store.images(job.id)
    assert [i.index for i in images] == [0, 1, 2, 3]
    assert [i.recipe for i in images] == [image.recipe for image, _ in made]
    assert [await store.read(i) for i in images] == [data for _, data in made]
    assert await store.image(job.id, 1) == images[0]
    assert await store.image(job.id, 4) == images[3]
    assert await store.image(job.id, 5) is None
    assert await store.image(job.id, 0) is None


async def test_completing_twice_keeps_the_first_images(store: JobStore, tmp_path: Path) -> None:
    job = await generated(store)
    before = await store.images(job.id)
    files = picture_files(tmp_path)
    assert not await store.complete(job.id, finished(job.request, first_seed=1000))
    assert await store.images(job.id) == before
    assert picture_files(tmp_path) == files


async def test_a_failing_completion_leaves_the_job_running(store: JobStore) -> None:
    job = await store.add(new_job())
    await store.start(job.id)
    with pytest.raises(StorageError):
        await store.complete(job.id, finished(job.request) * 2)
    assert await store.images(job.id) == []
    assert await store.complete(job.id, finished(job.request))


async def test_a_variation_knows_its_parent_image(store: JobStore) -> None:
    parent = await generated(store)
    (origin,) = await store.images(parent.id)
    child = await generated(
        store,
        kind=JobKind.VARY,
        parent_image_id=origin.id,
        request=request(source=pixels(42), strength=0.5, seed=77),
    )
    (image,) = await store.images(child.id)
    assert image.parent_image_id == origin.id
    assert origin.parent_image_id is None


async def test_a_job_from_an_unknown_image_is_refused(store: JobStore) -> None:
    with pytest.raises(StorageError):
        await store.add(new_job(parent_image_id=12))
    assert await unfinished(store) == []


async def test_a_source_that_is_a_stored_image_shares_its_file(
    store: JobStore, tmp_path: Path
) -> None:
    await generated(store)
    files = picture_files(tmp_path)
    await store.add(new_job(request=request(source=pixels(42), strength=0.5)))
    assert picture_files(tmp_path) == files


async def test_pictures_are_found_by_their_pixels(store: JobStore) -> None:
    await generated(store)
    await store.add(new_job(request=request(source=pixels(8), strength=0.5)))
    assert await kept_pixels(store, pixels(42).sha256) == pixels(42)
    assert await kept_pixels(store, pixels(8).sha256) == pixels(8)
    assert await kept_pixels(store, pixels(9).sha256) is None


async def test_a_damaged_picture_is_never_returned(store: JobStore, tmp_path: Path) -> None:
    job = await generated(store)
    (image,) = await store.images(job.id)
    (tmp_path / "pictures" / image.sha256[:2] / f"{image.sha256}.png").write_bytes(b"rust")
    with pytest.raises(PictureDamaged, match="is damaged"):
        await store.read(image)
