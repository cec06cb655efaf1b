"""What all tests share: one thread of torch for each process, and the order of the files."""

from __future__ import annotations

import os
import sys
from typing import Final

import pytest

# Torch reads this when it is loaded, here and in each process that a test starts. Several processes
# share the cores, and a network of this size takes longer on two threads that wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# For tests of several threads, as `imagine-bot` sets it: threads wait without a long busy loop.
os.environ["GOMP_SPINCOUNT"] = "2000"

# They take longest. They come first, so that no process is left with one at the end.
_LONGEST: Final = (
    "tests/kill/test_kill.py",
    "tests/generation/starter/test_model.py",
    "tests/bot/bench/test_bench.py",
    "tests/test_process.py",
    "tests/generation/engine/test_pipelines.py",
    "tests/test_demo_page.py",
    "tests/bot/cli/test_generate.py",
    "tests/test_starting.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(scope="module", autouse=True)
def each_module_on_one_thread() -> None:
    """Let torch compute on one thread in each module, whatever a module before it left.

    The last bits of a picture depend on the number of threads.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
