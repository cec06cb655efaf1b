"""A queue on an engine that waits for the test before each step."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ..queues import (
    Stage,
    a_stage,
)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with a_stage() as made:
        yield made
