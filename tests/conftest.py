"""The order of the test files."""

from __future__ import annotations

from typing import Final

import pytest

# They take a minute and more each. They come first, so that no process is left with one at the end.
_LONGEST: Final = (
    "tests/test_kill.py",
    "tests/generation/starter/test_model.py",
    "tests/bot/bench/test_bench.py",
    "tests/test_process.py",
    "tests/generation/engine/test_engine.py",
    "tests/generation/starter/test_training.py",
    "tests/bot/cli/test_cli.py",
    "tests/test_starting.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
