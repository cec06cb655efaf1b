"""Jobs with secret words, and a search for these words in the bytes of all files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlite_utils

from generation.images.png import write_png
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from storage.deletion import jobs as deletion
from storage.folder.layout import DATABASE_NAME
from storage.jobs import JobStore
from storage.records import Job, JobKind

from ..samples import new_job, pixels, recipe, request

PROMPT = "zyzzogeton quokkafant"


NEGATIVE = "blixenhorn"


# The index stores the words of a prompt separately, so each word is a secret of its own.
SECRETS = ("zyzzogeton", "quokkafant", "blixenhorn")


SEED = 3_987_654_321


USER = 874_650_912_345_678_901


ORIGIN = "interaction:912345678901234567"


def asked(**values: Any) -> Any:
    return request(PROMPT, **{"negative_prompt": NEGATIVE, "seed": SEED, **values})


async def made(store: JobStore, **values: Any) -> Job:
    """Return a delivered job; its files hold their recipes, as in the bot."""
    values = {"request": asked(), "user_id": USER, "origin": ORIGIN, **values}
    job = await store.add(new_job(**values))
    await store.start(job.id)
    images = []
    for index in range(job.request.count):
        result = pixels(job.request.seed + index)
        image = GeneratedImage(
            index=index, pixels=result, recipe=recipe(job.request, index, result)
        )
        images.append((image, write_png(result, image.recipe)))
    assert await store.complete(job.id, images)
    assert await store.delivered(job.id, 555_000 + job.id)
    return job


def secrets_in(folder: Path) -> Iterator[str]:
    """Yield the places of secrets in all files, as text or as a number of SQLite."""
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


def forget_alone(folder: Path, job_id: int) -> sqlite_utils.Database:
    """Run only the first step of a deletion, and return the connection."""
    db = sqlite_utils.Database(sqlite3.connect(folder / DATABASE_NAME, isolation_level=None))
    db.execute("PRAGMA secure_delete = ON")
    assert deletion.forget(db, job_id, None)
    deletion.forget_message(db, job_id)
    return db


async def varied(store: JobStore, *, seed: int = SEED) -> tuple[Job, Pixels]:
    """Return a job with a variation by another member, and the pixels of its picture."""
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


async def state_of(store: JobStore, sha256: str) -> str:
    return await store._db.run(lambda db: str(db["pictures"].get(sha256)["state"]))
