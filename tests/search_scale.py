"""Storage with a long history: `python -m tests.search_scale --rows 1000000`.

The program fills a database of the version before the search index by member, and migrates it. One
member has half of all pictures. The program prints the milliseconds of searches, of an insert, and
of the queries at the start of the bot. The short form,
`tests/storage/queries/test_query_plans.py`, checks SQLite's query plans instead of times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import sqlite_utils

from generation.values.request import GenerationRequest
from storage.folder.layout import DATABASE_NAME
from storage.history import History
from storage.jobs import JobStore
from storage.opening import Storage, open_storage
from storage.records import JobKind, NewJob
from storage.sqlite import migrator

WORDS = [
    "owl",
    "cat",
    "rabbit",
    "apple",
    "blue",
    "red",
    "green",
    "yellow",
    "background",
    "flat",
    "style",
    "face",
    "pizza",
    "tiny",
    "huge",
    "next",
    "to",
    "a",
    "the",
    "on",
]
HEAVY, LIGHT, NEW = 7, 1_002, 999_999
KEYSTROKES = ("", "o", "ow", "owl", "back", "background", "w", "w1", "w12", "w123", "w12345")
HOSTILE = ("zzz", "owl w77", "ow cat", "o w3", "lonely crowd", "a b c f r g y p", "a b c f r g y w")
BEFORE = "m006_search_by_member"


def jobs(rows: int) -> Iterator[tuple[Any, ...]]:
    """Yield jobs; every fourth of the heavy member has "lonely", every other fourth "crowd"."""
    choose = random.Random(1)
    for number in range(1, rows + 1):
        words = choose.choices(WORDS, k=8)
        prompt = f"{' '.join(words)} {'lonely' if number % 4 == 1 else 'crowd'} w{number}"
        request = {
            "count": 1,
            "guidance_scale": 2.5,
            "height": 128,
            "negative_prompt": "",
            "prompt": prompt,
            "scheduler": "ddim",
            "seed": number,
            "steps": 30,
            "strength": None,
            "width": 128,
        }
        user = HEAVY if number % 2 else 1_000 + number % 5_000
        yield ("imagine", "delivered", user, 1, 2, 10**17 + number, json.dumps(request))


def fill(path: Path, rows: int) -> None:
    """Create the database of the version before the search index by member."""
    connection = sqlite3.connect(path, isolation_level=None)
    db = sqlite_utils.Database(connection)
    migrator.migrations().apply(db, stop_before=[BEFORE])
    connection.execute("PRAGMA synchronous = OFF")
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    by_name = dict(triggers.fetchall())
    connection.execute("BEGIN")
    # Filling the index in one statement takes a fraction of the time.
    for name in by_name:
        connection.execute(f"DROP TRIGGER {name}")
    connection.executemany(
        """
        INSERT INTO jobs (kind, status, user_id, guild_id, channel_id, message_id, request,
                          created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, '2026-01-01T00:00:00+00:00')
        """,
        jobs(rows),
    )
    connection.execute(
        "INSERT INTO prompt_search (rowid, prompt) "
        "SELECT id, json_extract(request, '$.prompt') FROM jobs"
    )
    for sql in by_name.values():
        connection.execute(sql)
    hashes = [(f"{n * 2654435761 % 2**32:08x}{n:056x}", f"{n:064x}") for n in range(1, rows + 1)]
    connection.executemany("INSERT INTO pictures (sha256, pixels_sha256) VALUES (?, ?)", hashes)
    recipe = json.dumps({"x": "y" * 900})
    connection.executemany(
        'INSERT INTO images (job_id, "index", sha256, recipe) VALUES (?, 0, ?, ?)',
        ((n, sha256, recipe) for n, (sha256, _) in enumerate(hashes, 1)),
    )
    connection.execute("COMMIT")
    db.close()


async def measure(name: str, ask: Callable[[], Awaitable[Any]], times: int = 40) -> None:
    """Print the median and the 99th percentile of the times of `ask`, and its result's size."""
    taken = []
    found: Any = None
    for _ in range(times):
        start = time.perf_counter()
        found = await ask()
        taken.append(1_000 * (time.perf_counter() - start))
    size = f"{len(found)} found" if isinstance(found, list) else ""
    p99 = statistics.quantiles(taken, n=100, method="inclusive")[98] if times > 1 else taken[0]
    print(f"{name:52} {statistics.median(taken):9.2f} {p99:9.2f}   {size}", flush=True)


async def insert(store: JobStore, user_id: int) -> None:
    """Store a queued job."""
    words = " ".join(random.choices(WORDS, k=8))
    request = GenerationRequest(
        prompt=f"{words} w{random.randrange(10**9)}",
        seed=1,
        width=128,
        height=128,
        steps=5,
        guidance_scale=2.0,
        scheduler="ddim",
    )
    await store.add(
        NewJob(kind=JobKind.IMAGINE, user_id=user_id, guild_id=1, channel_id=2, request=request)
    )


async def indexed(store: JobStore, job_id: int) -> None:
    """Set the state of a job to generated, which adds the job to the index."""
    await store._db.run(
        lambda db: (
            db.execute("UPDATE jobs SET status = 'generated' WHERE id = ?", (job_id,)) and None
        )
    )


async def search(history: History) -> None:
    """Print the times of searches of members with half of all pictures, a few, and none."""
    for member, name in ((HEAVY, "half of all"), (LIGHT, "200 pictures"), (NEW, "no picture")):
        for text in (*KEYSTROKES, *HOSTILE):
            await measure(
                f"search {text!r}, member with {name}",
                lambda member=member, text=text: history.search(member, text, 25),
            )


async def measure_others(storage: Storage, rows: int) -> None:
    """Print the times of inserts, of queries at the start, and of queries behind a flood."""
    store = storage.jobs
    await measure("insert a job", lambda: insert(store, HEAVY), 500)
    ids = iter(range(rows + 1, rows + 501))
    await measure("index its prompt", lambda: indexed(store, next(ids)), 500)
    for name in ("deleted_with_message", "unreported_cancellations"):
        await measure(name, getattr(store, name))
    await measure("by_message", lambda: store.by_message(10**17 + 5))
    doomed = iter(range(1, 99, 2))
    await measure("delete a job", lambda: store.delete(next(doomed)))
    for name, ask in (
        ("another's job", lambda: store.get(9)),
        ("another's search", lambda: storage.history.search(LIGHT, "owl", 25)),
        ("another's insert", lambda: insert(store, LIGHT)),
    ):
        flood = [
            asyncio.create_task(storage.history.search(HEAVY, "lonely crowd", 25))
            for _ in range(40)
        ]
        await asyncio.sleep(0)
        await measure(f"{name} behind 40 hostile searches of one member", ask, 1)
        await asyncio.gather(*flood)


async def run(folder: Path, rows: int) -> None:
    """Fill, migrate and measure."""
    path = folder / DATABASE_NAME
    start = time.perf_counter()
    fill(path, rows)
    print(f"filled {rows:,} jobs in {time.perf_counter() - start:.0f} s", flush=True)
    size = path.stat().st_size / 2**20
    start = time.perf_counter()
    async with open_storage(folder) as storage:
        print(f"migrated them in {time.perf_counter() - start:.1f} s", flush=True)
        print(f"{'milliseconds':52} {'median':>9} {'p99':>9}")
        await search(storage.history)
        await measure_others(storage, rows)
    start = time.perf_counter()
    async with open_storage(folder):
        print(f"opened again in {time.perf_counter() - start:.2f} s")
    print(f"{size:.0f} MiB before, {path.stat().st_size / 2**20:.0f} MiB after")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="an empty folder for the database, which is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(options.keep or Path(folder), options.rows))


if __name__ == "__main__":
    main()
