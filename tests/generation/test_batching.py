from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.batching import plan


@dataclass(frozen=True)
class Image:
    number: int
    batch_key: tuple[int, ...]


def images(keys: list[int]) -> list[Image]:
    return [Image(number, (key,)) for number, key in enumerate(keys)]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_each_image_is_in_one_batch_of_its_kind_in_its_order(keys: list[int], most: int) -> None:
    waiting = images(keys)
    batches = list(plan(waiting, most=most))
    assert (
        sorted((image for batch in batches for image in batch), key=lambda image: image.number)
        == waiting
    )
    for batch in batches:
        assert 1 <= len(batch) <= most
        assert len({image.batch_key for image in batch}) == 1
    for key in set(keys):
        alike = [image for batch in batches for image in batch if image.batch_key == (key,)]
        assert alike == [image for image in waiting if image.batch_key == (key,)]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_there_are_no_more_calls_than_needed(keys: list[int], most: int) -> None:
    batches = list(plan(images(keys), most=most))
    assert len(batches) == sum(-(-keys.count(key) // most) for key in set(keys))


@pytest.mark.parametrize("most", [1, 4])
def test_nothing_waits_nothing_runs(most: int) -> None:
    assert list(plan([], most=most)) == []


def test_at_one_image_a_call_nobody_shares() -> None:
    waiting = images([0, 0, 1, 0])
    assert list(plan(waiting, most=1)) == [[image] for image in waiting]


def test_images_of_another_size_or_text_length_have_a_call_of_their_own() -> None:
    square, wide, long = Image(0, (4, 8, 8, 77)), Image(1, (4, 8, 12, 77)), Image(2, (4, 8, 8, 154))
    again = Image(3, (4, 8, 8, 77))
    assert list(plan([square, wide, long, again], most=4)) == [[square, again], [wide], [long]]
