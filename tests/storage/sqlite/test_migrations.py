from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from storage.database import Database
from storage.errors import DatabaseUnusable
from storage.folder.layout import DATABASE_NAME
from storage.opening import open_storage
from storage.sqlite import migrations, migrator
from storage.sqlite.readonly import open_readonly
from storage.states import JobStatus

from ..inspection import history, open_jobs, unfinished

# Rows as each version wrote them. They are never edited; a later version adds its own rows.
REQUEST = json.dumps(
    {
        "count": 1,
        "guidance_scale": 7.5,
        "height": 512,
        "negative_prompt": "",
        "prompt": "a cute rabbit 🐰, octane render",
        "scheduler": "lms",
        "seed": 42,
        "steps": 20,
        "strength": None,
        "width": 512,
    }
)
RECIPE = json.dumps(
    {
        "device": "cpu",
        "dtype": "float32",
        "guidance_scale": 7.5,
        "height": 512,
        "model": "starter",
        "model_sha256": "0" * 64,
        "negative_prompt": "",
        "pixels_sha256": "b" * 64,
        "prompt": "a cute rabbit 🐰, octane render",
        "scheduler": "lms",
        "scheduler_settings": {"beta_start": 0.00085},
        "seed": 42,
        "source_sha256": None,
        "steps": 20,
        "strength": None,
        "unread_prompt": "",
        "versions": {"torch": "2.6.0"},
        "width": 512,
    }
)
ROWS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "m001_jobs": [
        ("pictures", {"sha256": "a" * 64, "pixels_sha256": "b" * 64}),
        (
            "jobs",
            {
                "id": 1,
                "kind": "imagine",
                "status": "generated",
                "user_id": 10,
                "guild_id": 20,
                "channel_id": 30,
                "message_id": 40,
                "origin": "interaction:50",
                "request": REQUEST,
                "created_at": "2026-01-02T03:04:05.678901+00:00",
            },
        ),
        (
            "jobs",
            {
                "id": 2,
                "kind": "imagine",
                "status": "cancelled",
                "user_id": 10,
                "channel_id": 30,
                "request": REQUEST.replace("rabbit", "badger"),
                "created_at": "2026-01-02T03:04:06+00:00",
                "deleted": 1,
            },
        ),
    ],
    "m002_images": [
        ("images", {"id": 1, "job_id": 1, "index": 0, "sha256": "a" * 64, "recipe": RECIPE}),
    ],
    "m004_resuming": [
        (
            "jobs",
            {
                "id": 3,
                "kind": "vary",
                "status": "cancelled",
                "user_id": 10,
                "channel_id": 30,
                "request": REQUEST,
                "parent_image_id": 1,
                "created_at": "2026-01-02T03:04:07+00:00",
                "weight": 2.5,
                "withdrawn": 1,
            },
        ),
    ],
    "m012_references": [
        ("job_references", {"job_id": 3, "position": 0, "sha256": "a" * 64}),
    ],
}
NAMES = [step.__name__ for step in migrations.STEPS]
# The schema after each step, as SHA-256. A new step adds a line; the other lines never change.
SCHEMAS = {
    "m001_jobs": "8d9a8d8aa32239b3ec20185c12b869f48bcf36a2f0436051f912bee2c8ea9f85",
    "m002_images": "200256b0c1d4431dff1b9d530055a9226af006831bad0b8c43e6c54a5106e67e",
    "m003_prompt_search": "be59b0c6d030c30744d7c7702f24a65dad0b6aee750d93915fdf6e2d56ef74ca",
    "m004_resuming": "6f83c75caba50510d6b404089c3e92604d018e59e6a19cc9fe1fda932c2cf9be",
    "m005_removing": "ce4b17efed51f0ec4afc3ed9fc94b897547f05061ecc2711e68aead2531ca8d6",
    "m006_search_by_member": "71d830fd3ffa3e7cf2d7d442c5ae652ec7f50617aa8df262b6185947710441ee",
    "m007_age_restricted": "1d0af45ef21f01c03bae499888a0963fe3781efe61dbf3caf730ed8843f494a9",
    "m008_tokens": "bae2f410af5a8d8be0b597b2aee60b317a8e42cce668ee77ea8bbdea9da4c202",
    "m009_forgetting": "e7a79c070a5397a233233a683cf746116a7aca53ee9ea26b4c6852b1c29d74b4",
    "m010_places": "17393782d8a91e13cf53e5978c86c700b53fb17bd6f7e2037b7a0f0f3e235474",
    "m011_guilds": "ee7fef195e8102ab1125c46c8768711379f60ecba14e4491fff0961ad0829da9",
    "m012_references": "f85ca8ff434447a59edffa09a7f440aaae8d436c765357594817dd2ed48ef60c",
}


def make_version(path: Path, versions: int) -> dict[str, list[dict[str, Any]]]:
    """Create a database with the first steps and their rows, and return the rows."""
    db = sqlite_utils.Database(sqlite3.connect(path, isolation_level=None))
    db.execute("PRAGMA foreign_keys = ON")
    migrator.migrations().apply(db, stop_before=NAMES[versions : versions + 1])
    for name in NAMES[:versions]:
        for table, row in ROWS.get(name, []):
            db[table].insert(row)
    tables = {table for name in NAMES[:versions] for table, _ in ROWS.get(name, [])}
    rows = {table: list(db[table].rows) for table in tables}
    db.close()
    return rows


@pytest.mark.parametrize("versions", range(1, len(NAMES) + 1), ids=NAMES)
async def test_the_rows_of_every_version_survive(tmp_path: Path, versions: int) -> None:
    path = tmp_path / DATABASE_NAME
    before = make_version(path, versions)
    async with Database(path) as db:
        after = await db.run(lambda db: {table: list(db[table].rows) for table in before})
        assert await db.run(lambda db: db.execute("PRAGMA foreign_key_check").fetchall()) == []
    for table, rows in before.items():
        common = rows[0].keys() & after[table][0].keys()
        # A later step clears deleted jobs; another test checks that.
        assert [{k: row[k] for k in common} for row in after[table] if not row.get("deleted")] == [
            {k: row[k] for k in common} for row in rows if not row.get("deleted")
        ]


@pytest.mark.parametrize("versions", range(1, len(NAMES) + 1), ids=NAMES)
async def test_the_store_understands_the_rows_of_every_version(
    tmp_path: Path, versions: int
) -> None:
    make_version(tmp_path / DATABASE_NAME, versions)
    async with open_jobs(tmp_path) as store:
        (job,) = await unfinished(store)
        assert (job.id, job.status, job.message_id) == (1, JobStatus.GENERATED, 40)
        assert job.created_at.isoformat() == "2026-01-02T03:04:05.678901+00:00"
        assert job.request.prompt == "a cute rabbit 🐰, octane render"
        assert [entry.job_id for entry in await history(store, 10, "rabb", 5)] == [1]
        assert await history(store, 10, "badger", 5) == []
        for image in await store.images(1):
            assert image.recipe.request(None) == job.request


@pytest.mark.parametrize("versions", range(1, len(NAMES) + 1), ids=NAMES)
def test_a_released_step_is_never_edited(tmp_path: Path, versions: int) -> None:
    make_version(tmp_path / DATABASE_NAME, versions)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db:
        rows = db.execute(
            """
            SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%sqlite_%'
                AND name NOT GLOB 'prompt_search_*' ORDER BY type, name
            """
        )
        schema = "\n".join(sql for (sql,) in rows)
    assert hashlib.sha256(schema.encode()).hexdigest() == SCHEMAS[NAMES[versions - 1]]


@pytest.mark.parametrize("versions", range(len(NAMES)))
async def test_every_version_ends_up_with_the_same_schema(tmp_path: Path, versions: int) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    make_version(old, versions)
    schemas = []
    for path in (old, new):
        async with Database(path) as db:
            schemas.append(await db.run(lambda db: db.schema))
    assert schemas[0] == schemas[1]


async def test_older_jobs_have_weight_one_and_their_messages_are_not_edited(
    tmp_path: Path,
) -> None:
    make_version(tmp_path / DATABASE_NAME, NAMES.index("m004_resuming"))
    async with open_jobs(tmp_path) as store:
        (job,) = await unfinished(store)
        assert job.weight == 1.0
        assert await store.unreported_cancellations() == []


async def test_each_older_job_gets_a_token_of_its_own(tmp_path: Path) -> None:
    make_version(tmp_path / DATABASE_NAME, NAMES.index("m008_tokens"))
    async with open_jobs(tmp_path) as store:
        tokens = [job.token for number in (1, 2, 3) if (job := await store.record(number))]
    assert len(set(tokens)) == 3
    assert all(len(token) == 12 for token in tokens)


async def test_the_servers_of_older_jobs_are_recorded_for_any_account(tmp_path: Path) -> None:
    make_version(tmp_path / DATABASE_NAME, NAMES.index("m011_guilds"))
    async with open_storage(tmp_path) as storage:
        # The account is unknown, so the servers count for any account.
        assert await storage.joined_guilds.missing(99, []) == [20]
        await storage.joined_guilds.add(98, [20])
        assert await storage.joined_guilds.missing(99, []) == []


async def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with Database(path):
        pass
    before = path.read_bytes()
    async with Database(path):
        pass
    assert path.read_bytes() == before


def test_an_older_database_is_not_read_before_its_migration(
    tmp_path: Path,
) -> None:
    make_version(tmp_path / "bot.db", len(NAMES) - 1)
    with pytest.raises(DatabaseUnusable, match="older Imagine Bot; start the bot once"):
        open_readonly(tmp_path / "bot.db")


def test_the_steps_are_numbered_in_their_order() -> None:
    assert [name[:5] for name in NAMES] == [f"m{n:03}_" for n in range(1, len(NAMES) + 1)]
