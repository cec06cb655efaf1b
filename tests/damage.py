"""Damaged data folders for `python -m tests.damage --minutes 10`, and for the suite's short form.

Whatever the damage is, opening, checking and restoring the folder end in a result or in a
StorageError, within limits of time and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bot.cli import data_folder
from storage.backup.create import back_up
from storage.backup.restore import restore
from storage.errors import StorageError
from storage.folder.layout import DATABASE_NAME
from storage.jobs import JobStore

from .storage.inspection import history, open_jobs
from .storage.samples import finished, new_job, request

SECONDS_MAX = 10.0
MEMORY_MAX = 2 * 2**30
PAGE = 4096
FILES = (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm")

Damage = tuple[str, str, int, int, bytes]


@dataclass(frozen=True)
class Sample:
    """A data folder with a write-ahead log, as a killed bot leaves it, and its backup."""

    live: Path
    backup: Path

    @classmethod
    def make(cls, folder: Path) -> Sample:
        """Fill both folders."""
        asyncio.run(_fill(folder / "data", folder / "live"))
        back_up(folder / "data", folder / "backup")
        return cls(folder / "live", folder / "backup")


async def _fill(data: Path, live: Path) -> None:
    async with open_jobs(data) as store:
        for seed in range(8):
            job = await store.add(new_job(request=request(f"owl {'w ' * 200}{seed}", seed=seed)))
            await store.start(job.id)
            await store.complete(job.id, finished(job.request))
        shutil.copytree(data, live)


def damages() -> st.SearchStrategy[list[Damage]]:
    """Return lists of damages: the kind, the file, the place, the source, and the bytes."""
    return st.lists(
        st.tuples(
            st.sampled_from(["flip", "cut", "zero", "splice", "remove", "swap"]),
            st.sampled_from((*FILES[:1], *FILES)),
            st.integers(0, 2**20),
            st.integers(0, 2**20),
            st.binary(min_size=1, max_size=40),
        ),
        min_size=1,
        max_size=4,
    )


def apply(folder: Path, damage: list[Damage]) -> None:
    """Damage the files of a folder."""
    for what, name, at, other, junk in damage:
        path = folder / name
        if not path.exists():
            continue
        data = bytearray(path.read_bytes())
        size = max(len(data), 1)
        page, source = at % size // PAGE * PAGE, other % size // PAGE * PAGE
        if what == "flip":
            data[at % size : at % size + len(junk)] = junk
        elif what == "cut":
            del data[at % size :]
        elif what == "zero":
            data[page : page + PAGE] = bytes(PAGE)
        elif what == "splice":
            data[page : page + PAGE] = data[source : source + PAGE]
        elif what == "swap":
            data = (
                bytearray((folder / FILES[other % 3]).read_bytes())
                if (folder / FILES[other % 3]).exists()
                else data
            )
        if what == "remove":
            path.unlink()
        else:
            path.write_bytes(data)


async def _work(folder: Path) -> None:
    async with open_jobs(folder) as store:
        await _ask(store)


async def _ask(store: JobStore) -> None:
    for _ in range(2):
        with contextlib.suppress(StorageError):
            job = await store.add(new_job())
            await store.start(job.id)
            await store.complete(job.id, finished(job.request))
            await store.delete(job.id)
    for ask in (store.unfinished, store.deleted_with_message, store.unreported_cancellations):
        with contextlib.suppress(StorageError):
            await ask()
    for number in range(1, 10):
        with contextlib.suppress(StorageError):
            await history(store, 1, "owl", number)
            await store.get(number)
            await store.images(number)


def survives(sample: Sample, damage: list[Damage], folder: Path) -> None:
    """Check that a damage raises nothing but a StorageError, within the time."""
    live, backup = folder / "live", folder / "backup"
    shutil.copytree(sample.live, live)
    shutil.copytree(sample.backup, backup)
    apply(live, damage)
    apply(backup, damage)
    start = time.monotonic()
    data_folder.check_or_explain(live)
    for step in (
        lambda: restore(backup, folder / "new"),
        lambda: asyncio.run(_work(folder / "new")),
        lambda: back_up(live, folder / "copy"),
        lambda: asyncio.run(_work(live)),
    ):
        with contextlib.suppress(StorageError):
            step()
    assert time.monotonic() - start < SECONDS_MAX, damage
    shutil.rmtree(folder)


def main() -> None:
    """Try damages until the time is up."""
    parser = argparse.ArgumentParser(description="Fuzz damaged data folders.")
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    end, tried = time.monotonic() + 60 * minutes, 0
    with tempfile.TemporaryDirectory() as root:
        sample = Sample.make(Path(root) / "sample")

        @settings(
            max_examples=200,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(damage=damages())
        def some(damage: list[Damage]) -> None:
            nonlocal tried
            tried += 1
            survives(sample, damage, Path(tempfile.mkdtemp(dir=root)))

        while time.monotonic() < end:
            some()
            print(f"{tried:,} damaged folders: a result or a sentence each", flush=True)


if __name__ == "__main__":
    main()
