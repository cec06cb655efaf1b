"""The short forms of `python -m tests.fuzz pictures` and `... png`: real files, real processes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ...fuzz.pictures import Pictures


@pytest.mark.parametrize("make", [Pictures.uploads, Pictures.recipes], ids=["pictures", "png"])
def test_damaged_files_are_read_or_refused_in_one_sentence(make: Callable[[], Pictures]) -> None:
    target = make()
    assert {target.attempt(random.Random(number)) for number in range(12)} == {True, False}
