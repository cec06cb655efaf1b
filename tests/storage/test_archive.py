from __future__ import annotations

from pathlib import Path

import pytest

from storage.archive import Archive
from storage.errors import DatabaseUnusable

from .inspection import open_jobs
from .samples import finished, new_job, pixels, request


async def test_pictures_are_read_while_a_bot_works(tmp_path: Path) -> None:
    async with open_jobs(tmp_path) as store:
        job = await store.add(new_job(request=request(source=pixels(8), strength=0.5, count=2)))
        await store.start(job.id)
        made = finished(job.request)
        await store.complete(job.id, made)
        with Archive(tmp_path) as archive:
            images = archive.images(job.id)
            assert images == await store.images(job.id)
            assert [archive.read(image) for image in images] == [data for _, data in made]
            assert archive.source_pixels(pixels(8).sha256) == pixels(8)
            assert archive.source_pixels(pixels(9).sha256) is None
            assert archive.images(job.id + 1) == []
            await store.delete(job.id)
            assert archive.images(job.id) == []


@pytest.mark.parametrize("model", [None, "Rabbit"])
async def test_the_model_of_a_job_is_read(tmp_path: Path, model: str | None) -> None:
    async with open_jobs(tmp_path) as store:
        job = await store.add(new_job(request=request(model=model)))
        with Archive(tmp_path) as archive:
            assert archive.model_of(job.id) == model
            assert archive.model_of(job.id + 1) is None
            await store.delete(job.id)
            assert archive.model_of(job.id) is None


async def test_a_folder_without_a_database_has_no_archive(tmp_path: Path) -> None:
    assert not Archive.exists(tmp_path)
    with pytest.raises(DatabaseUnusable, match="does not exist"):
        Archive(tmp_path)
    async with open_jobs(tmp_path):
        pass
    assert Archive.exists(tmp_path)
