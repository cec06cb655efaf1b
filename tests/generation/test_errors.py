"""The words of which sentences for people consist."""

from __future__ import annotations

import pytest

from generation.errors import any_of


@pytest.mark.parametrize(
    ("names", "said"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")]
)
def test_names_are_listed_as_in_a_sentence(names: list[str], said: str) -> None:
    assert any_of(names) == said
