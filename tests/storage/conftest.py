from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.jobs import JobStore
from storage.opening import open_storage


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    async with open_storage(tmp_path) as store:
        yield store
