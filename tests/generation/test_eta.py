from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.eta import Pace, Work, finish_times
from generation.pace import Measured
from tests.fairness.simulation import MEASURED as GPU
from tests.fairness.simulation import Ask, Share, in_turns

# A row of 1 million pixels: loads are then rows.
MEASURED = Measured(
    pixels=1_000_000, step_seconds={1: 1.0, 2: 1.0, 4: 1.5}, decode_seconds={1: 0.5, 2: 0.75}
)
works = st.builds(
    Work,
    steps=st.integers(1, 60),
    load=st.sampled_from([1.0, 2.0, 4.0]),
    images=st.integers(1, 4),
    pixels=st.sampled_from([0.25, 1.0]),
)


def work(steps: int, load: float = 1.0, images: int = 1, pixels: float = 1.0) -> Work:
    return Work(steps, load, images, pixels)


class TestFinishTimes:
    def test_one_job_takes_its_steps_and_its_decoding(self) -> None:
        assert finish_times([work(10, 2.0)], [], Pace(MEASURED)) == [10.5]

    def test_who_waits_comes_after_who_runs(self) -> None:
        times = finish_times([work(10, 4.0)], [work(5, 2.0)], Pace(MEASURED))
        assert times == [15.5, 21.0]

    def test_two_that_fit_share_their_steps(self) -> None:
        times = finish_times([work(10), work(4)], [], Pace(MEASURED))
        # Four steps of both, a decoding that the other waits for, and six more.
        assert times == [pytest.approx(4 + 0.5 + 6 + 0.5), 4.5]

    def test_a_waiting_one_joins_where_there_is_room_for_it(self) -> None:
        times = finish_times([work(10, 2.0)], [work(2, 2.0), work(1, 2.0)], Pace(MEASURED))
        second = 2 * 1.5 + 0.5
        third = second + 1 * 1.5 + 0.5
        assert times == [pytest.approx(third + 7 * 1.0 + 0.5), second, third]

    def test_pictures_of_a_job_are_decoded_together(self) -> None:
        [one] = finish_times([work(1, images=1)], [], Pace(MEASURED))
        [two] = finish_times([work(1, images=2)], [], Pace(MEASURED))
        [four] = finish_times([work(1, images=4)], [], Pace(MEASURED))
        assert (one, two, four) == (1.5, 1.75, 2.5)

    def test_smaller_pictures_take_less(self) -> None:
        [small] = finish_times([work(8, load=0.25, pixels=0.25)], [], Pace(MEASURED))
        assert small == 8 * 1.0 + 0.25 * 0.5

    def test_nothing_takes_no_time(self) -> None:
        assert finish_times([], [], Pace(MEASURED)) == []

    @given(st.lists(works, max_size=3), st.lists(works, max_size=8), works)
    def test_one_more_in_the_queue_delays_nobody_before_it_and_hastens_nobody(
        self, running: list[Work], waiting: list[Work], more: Work
    ) -> None:
        before = finish_times(running, waiting, Pace(MEASURED))
        after = finish_times(running, [*waiting, more], Pace(MEASURED))
        assert len(after) == len(before) + 1
        assert all(time > 0 for time in after)
        # It may take a place that was free, and make the steps of the others longer.
        assert all(late >= soon - 1e-9 for soon, late in zip(before, after, strict=False))
        assert after[-1] >= more.steps * 1.0

    @given(st.lists(works, min_size=2, max_size=8), st.data())
    def test_among_equals_who_is_ahead_is_done_first(
        self, ahead: list[Work], data: st.DataObject
    ) -> None:
        one = data.draw(works)
        times = finish_times([], [*ahead, one, one], Pace(MEASURED))
        assert times[-2] <= times[-1]


class TestPace:
    def test_it_starts_with_what_the_engine_measured(self) -> None:
        pace = Pace(MEASURED)
        assert [pace.step(load) for load in (0.1, 1.0, 1.5, 2.0, 4.0)] == [1.0, 1.0, 1.0, 1.0, 1.5]
        assert pace.step(8.0) == 3.0
        assert pace.capacity == 4.0

    def test_it_follows_what_steps_really_take(self) -> None:
        pace = Pace(MEASURED)
        for _ in range(100):
            pace.saw(2.0, 2.0)
            pace.saw(4.0, 3.0)
        assert pace.step(2.0) == pytest.approx(2.0, rel=0.02)
        assert pace.decode(work(1)) == pytest.approx(1.0, rel=0.02)

    def test_a_single_pause_changes_little(self) -> None:
        pace = Pace(MEASURED)
        pace.saw(2.0, 10_000.0)
        assert pace.step(2.0) <= 2.0


def test_for_jobs_of_one_turn_it_foretells_what_the_schedule_does() -> None:
    """The error is reported by the median over the jobs, as the benchmark does."""
    asks = [
        Ask(number, 0.0, Share("here", number % 3), 8 + 7 * number % 22, 2, is_burst=False)
        for number in range(40)
    ]
    served = in_turns(asks)
    order = sorted(asks, key=lambda ask: served[ask.number].started)
    running = list(itertools.takewhile(lambda ask: served[ask.number].started == 0, order))
    pixels = GPU.pixels / 1e6
    todo = [Work(ask.steps, ask.load, 1, pixels) for ask in order]
    foretold = finish_times(todo[: len(running)], todo[len(running) :], Pace(GPU))
    errors = [
        abs(time / served[ask.number].finished - 1)
        for ask, time in zip(order, foretold, strict=True)
    ]
    assert sorted(errors)[len(errors) // 2] < 0.2
    assert max(errors) < 0.5


def test_a_measurement_has_as_many_rows_as_its_largest_call() -> None:
    assert MEASURED.rows == 4
    assert dataclasses.replace(MEASURED, step_seconds={2: 1.0}).rows == 2
