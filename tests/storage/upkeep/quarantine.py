"""Data folders with orphans, and the places of their files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from storage.folder.layout import DATABASE_NAME, PICTURES_NAME, UNKNOWN_NAME
from storage.jobs import JobStore
from storage.pictures.files import PictureFiles

from ..inspection import open_jobs
from ..queries.test_history import show
from ..samples import request

REPOSITORY = Path(__file__).parents[3]


DAY = 24 * 60 * 60


def every(data: Path) -> dict[Path, int]:
    """Return all paths below a folder with their modification times."""
    return {path: path.stat().st_mtime_ns for path in data.rglob("*")}


def there(data: Path) -> set[str]:
    return {path.stem for path in (data / PICTURES_NAME).glob("??/*.png")}


def aside(data: Path) -> set[str]:
    return {path.stem for path in (data / UNKNOWN_NAME).glob("??/*.png")}


def unknown_file(data: Path, content: bytes = b"from another database") -> Path:
    files = PictureFiles(data / PICTURES_NAME)
    path = files.path(files.write(content))
    os.utime(path, (1, 1))
    return path


def in_aside(data: Path, sha256: str) -> Path:
    return PictureFiles(data / UNKNOWN_NAME).path(sha256)


def age(file: Path, days: float) -> None:
    moved = time.time() - days * DAY
    os.utime(file, (moved, moved))


async def start(data: Path) -> None:
    async with open_jobs(data):
        pass


async def picture(store: JobStore, seed: int) -> int:
    return await show(store, "owl", request=request("owl", seed=seed))


async def read_all(data: Path, job_ids: list[int]) -> None:
    async with open_jobs(data) as store:
        for job_id in job_ids:
            for image in await store.images(job_id):
                assert await store.read(image)


async def older_and_newer(data: Path) -> tuple[bytes, bytes, list[int]]:
    """Create an older and a newer database; return both and the jobs of the newer one."""
    async with open_jobs(data) as store:
        ids = [await picture(store, seed) for seed in range(3)]
    older = (data / DATABASE_NAME).read_bytes()
    async with open_jobs(data) as store:
        ids += [await picture(store, seed) for seed in range(10, 16)]
    return older, (data / DATABASE_NAME).read_bytes(), ids


class Crash(Exception):
    """Stands for the end of the process."""


def many(data: Path, count: int) -> set[str]:
    """Write files without waiting for the disk."""
    names = set()
    for number in range(count):
        content = b"%d" % number
        sha256 = hashlib.sha256(content).hexdigest()
        path = PictureFiles(data / PICTURES_NAME).path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1, 1))
        names.add(sha256)
    return names
