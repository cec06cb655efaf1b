from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from storage.jobs import JobStore
from storage.opening import Storage, open_storage

NOBODY = 65534

ReadOnly = Callable[[], AbstractContextManager[None]]


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(tmp_path) as storage:
        yield storage


@pytest.fixture
def store(storage: Storage) -> JobStore:
    return storage.jobs


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Yield a folder that other users can enter, unlike the folders of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


@pytest.fixture
def read_only(shared_folder: Path) -> ReadOnly:
    """Return a context in which the shared folder is read-only."""

    @contextlib.contextmanager
    def no_writing() -> Iterator[None]:
        for path in (shared_folder, *shared_folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        # Permissions do not stop the superuser.
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if is_root:
                os.seteuid(0)
            for path in (shared_folder, *shared_folder.rglob("*")):
                path.chmod(0o755)

    return no_writing
