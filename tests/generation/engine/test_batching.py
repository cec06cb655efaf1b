from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.engine.batching import plan
from generation.timing import Sizes

LADDER = (1, 2, 4, 8, 16)
ladders = st.sets(st.sampled_from(LADDER), min_size=1)
times = st.floats(0.01, 1.0)
some_sizes = ladders.flatmap(
    lambda sizes: st.lists(times, min_size=len(sizes), max_size=len(sizes)).map(
        lambda seconds: Sizes(dict(zip(sorted(sizes), sorted(seconds), strict=True)))
    )
)
# What the UNet is given: an image under guidance has two rows in one call.
unet_sizes = some_sizes.filter(lambda sizes: sizes.most > 1)


@dataclass(frozen=True)
class Image:
    number: int
    batch_key: tuple[int, ...]
    rows: int = 1


images = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2)), max_size=40).map(
    lambda drawn: [Image(number, (key,), rows) for number, (key, rows) in enumerate(drawn)]
)


def even(most: int) -> Sizes:
    """Return sizes up to `most` whose rows all take the same time."""
    return Sizes({size: 0.01 * size for size in LADDER if size <= most})


@given(images, unet_sizes)
def test_each_image_is_in_one_batch_of_its_kind_with_all_its_rows(
    waiting: list[Image], sizes: Sizes
) -> None:
    batches = list(plan(waiting, lambda _: sizes))
    shared = [image for batch in batches for image in batch.images]
    assert sorted(shared, key=lambda image: image.number) == waiting
    for batch in batches:
        assert batch.images
        assert batch.size in sizes.seconds
        assert sum(image.rows for image in batch.images) <= batch.size
        assert len({image.batch_key for image in batch.images}) == 1


@given(images, unet_sizes)
def test_there_are_no_more_calls_than_the_rows_need(waiting: list[Image], sizes: Sizes) -> None:
    batches = list(plan(waiting, lambda _: sizes))
    for key in {image.batch_key for image in waiting}:
        rows = sum(image.rows for image in waiting if image.batch_key == key)
        calls = [batch.size for batch in batches if batch.images[0].batch_key == key]
        assert tuple(calls) == sizes.split(rows)


def test_each_kind_has_its_own_sizes() -> None:
    one, other = [Image(0, (0,)), Image(1, (0,))], [Image(2, (1,)), Image(3, (1,))]
    sizes = {(0,): Sizes({2: 1.0}), (1,): Sizes({4: 1.0})}
    batches = list(plan([*one, *other], lambda image: sizes[image.batch_key]))
    assert [(batch.images, batch.size) for batch in batches] == [
        (tuple(one), 2),
        (tuple(other), 4),
    ]


def test_nothing_waits_nothing_runs() -> None:
    assert list(plan(list[Image](), lambda _: even(16))) == []


def test_images_of_another_size_or_text_length_have_a_call_of_their_own() -> None:
    square, wide, long = Image(0, (4, 8, 8, 77)), Image(1, (4, 8, 12, 77)), Image(2, (4, 8, 8, 154))
    again = Image(3, (4, 8, 8, 77))
    batches = plan([square, wide, long, again], lambda _: even(16))
    assert [batch.images for batch in batches] == [(square, again), (wide,), (long,)]


def brute_force(seconds: dict[int, float], rows: int) -> float:
    """Return the least time in which calls of any sizes take `rows` rows."""
    if rows == 0:
        return 0.0
    best = float("inf")
    larger = [size for size in seconds if size > 1]
    for count in range(rows + 1):
        for sizes in itertools.combinations_with_replacement(larger, count):
            left = rows - sum(sizes)
            if left <= 0:
                best = min(best, sum(seconds[size] for size in sizes))
            elif 1 in seconds and (left == 1 or not larger):
                best = min(best, sum(seconds[size] for size in sizes) + left * seconds[1])
    return best


@given(some_sizes, st.integers(0, 9))
def test_rows_are_split_so_that_they_are_done_soonest(sizes: Sizes, rows: int) -> None:
    split = sizes.split(rows)
    assert sum(split) >= rows
    assert list(split) == sorted(split, reverse=True)
    assert set(split) <= set(sizes.seconds)
    assert sizes.time(rows) == pytest.approx(sum(sizes.seconds[size] for size in split))
    assert sizes.time(rows) == pytest.approx(brute_force(dict(sizes.seconds), rows))


def test_a_single_row_is_alone_where_it_can_be() -> None:
    assert even(16).split(1) == (1,)
    assert Sizes({2: 1.0, 4: 1.0}).split(1) == (2,)
    assert even(16).split(0) == ()


@given(
    st.dictionaries(st.sampled_from(LADDER), times, min_size=1).map(Sizes),
    st.integers(1, 16),
)
def test_nothing_is_filled_up_beyond_the_next_size_whatever_was_measured(
    sizes: Sizes, rows: int
) -> None:
    enough = [size for size in sizes.seconds if size >= rows]
    assert sizes.split(rows)[0] <= min(enough, default=sizes.most)


def test_one_slow_call_does_not_end_a_size() -> None:
    sizes = Sizes({2: 1.0, 4: 1.5}).corrected(2, 60.0)
    assert sizes.seconds[2] > sizes.seconds[4]
    for _ in range(60):
        [size] = sizes.split(2)
        sizes = sizes.corrected(size, 1.0)
    assert sizes.seconds[2] == pytest.approx(1.0, rel=0.1)
    assert sizes.seconds[4] == 1.5


def test_an_odd_row_is_not_doubled_where_a_call_of_its_own_is_cheaper() -> None:
    assert Sizes({1: 1.0, 2: 2.0}).split(3) == (2, 1)
    assert Sizes({1: 1.9, 2: 2.0, 4: 3.5}).split(3) == (4,)


@pytest.mark.parametrize("sizes", [{}, {3: 1.0}, {2: 1.0, 7: 1.0}])
def test_odd_sizes_and_none_are_refused(sizes: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="no sizes"):
        Sizes(sizes)


def test_times_follow_what_calls_really_take() -> None:
    sizes = Sizes({2: 1.0, 4: 1.5})
    for _ in range(60):
        sizes = sizes.corrected(4, 3.0)
    assert sizes.seconds[4] == pytest.approx(3.0, rel=0.1)
    assert sizes.seconds[2] == 1.0
    assert sizes.split(4) == (2, 2)
    assert sizes.corrected(2, 1.001) is sizes
    assert sizes.corrected(8, 1.0) is sizes
