"""Each promise of SECURITY.md names a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = [
    line for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines() if "`tests/" in line
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda line: line.split("|")[1].strip()[:60])
def test_the_tests_of_a_promise_exist(promise: str) -> None:
    file = None
    for named in re.findall(r"`(tests/[\w/.]+)?(?:::(\w+))?`", promise):
        if not any(named):
            continue
        file = ROOT / named[0] if named[0] else file
        assert file is not None
        assert file.is_file(), file
        if named[1]:
            assert f"def {named[1]}(" in file.read_text("utf-8"), named[1]
