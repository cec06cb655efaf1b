from __future__ import annotations

from itertools import islice

import pytest

from bot.backoff import backoff


@pytest.mark.parametrize(
    ("delays", "first_five"),
    [
        ((3,), [3, 3, 3, 3, 3]),
        ((0, 2, 10), [0, 2, 10, 10, 10]),
        ((1, 2, 5, 10, 20, 40), [1, 2, 5, 10, 20]),
    ],
)
def test_the_delays_come_in_order_and_the_last_one_repeats(
    delays: tuple[float, ...], first_five: list[float]
) -> None:
    assert list(islice(backoff(delays), 5)) == first_five


def test_a_backoff_needs_a_delay() -> None:
    with pytest.raises(IndexError):
        next(backoff(()))
