"""Textual inversions as prompts name them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.errors import InvalidRequest
from generation.values.inversion import Inversion, named_in, replaced

from ..examples import a_request

NAMES = ("EasyNegative", "cat-toy", "cat", "bad_hands")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a cat", ("cat",)),
        ("a Cat-Toy, easynegative", ("cat-toy", "EasyNegative")),
        ("<cat-toy> and (bad_hands:1.2)", ("cat-toy", "bad_hands")),
        ("concatenate cats very_bad_hands", ()),
        ("", ()),
    ],
)
def test_names_are_found_as_words_the_longest_first(text: str, found: tuple[str, ...]) -> None:
    assert named_in([text], NAMES) == found


def test_a_name_is_replaced_with_its_brackets() -> None:
    assert replaced("<CAT-toy> cat <dog>", NAMES, lambda name: f"[{name}]") == (
        "[cat-toy] [cat] <dog>"
    )


@given(st.text(), st.lists(st.text(min_size=1, max_size=5), max_size=5))
def test_any_text_and_any_names_are_searched(text: str, names: list[str]) -> None:
    known = {name.casefold(): name for name in names if name.lower() == name.casefold()}
    found = named_in([text], list(known.values()))
    assert set(found) <= set(known.values())
    if not found:
        assert replaced(text, list(known.values()), lambda _: "x") == text


def test_a_request_has_few_and_each_once() -> None:
    with pytest.raises(InvalidRequest, match="at most 16"):
        a_request(inversions=tuple(Inversion(f"e{number}") for number in range(17)))
    with pytest.raises(InvalidRequest, match="twice"):
        a_request(inversions=(Inversion("a"), Inversion("A")))
