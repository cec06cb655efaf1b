from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.queue.estimates import RemainingWork, TimingModel, finish_times
from generation.queue.turns import TURN_STEPS
from generation.timing import Measured

from ...fairness.simulation import MEASURED as GPU
from ...fairness.simulation import STEPS, Ask, Share, in_turns

# A row of 1 million pixels: loads are then rows.
MEASURED = Measured(
    pixels=1_000_000, step_seconds={1: 1.0, 2: 1.0, 4: 1.5}, decode_seconds={1: 0.5, 2: 0.75}
)


def works(most: int) -> st.SearchStrategy[RemainingWork]:
    return st.builds(
        RemainingWork,
        steps=st.integers(1, most),
        load=st.sampled_from([1.0, 2.0, 4.0]),
        images=st.integers(1, 4),
        pixels=st.sampled_from([0.25, 1.0]),
    )


of_one_turn = works(TURN_STEPS)
of_any_length = works(200)


def work(steps: int, load: float = 1.0, images: int = 1, pixels: float = 1.0) -> RemainingWork:
    return RemainingWork(steps, load, images, pixels)


class TestFinishTimes:
    def test_one_job_takes_its_steps_and_its_decoding(self) -> None:
        assert finish_times([work(10, 2.0)], [], TimingModel(MEASURED)) == [10.5]

    def test_a_waiting_job_is_done_after_a_running_one(self) -> None:
        times = finish_times([work(10, 4.0)], [work(5, 2.0)], TimingModel(MEASURED))
        assert times == [15.5, 21.0]

    def test_two_jobs_within_the_capacity_share_their_steps(self) -> None:
        times = finish_times([work(10), work(4)], [], TimingModel(MEASURED))
        # Four steps of both, a decoding that the other waits for, and six more.
        assert times == [pytest.approx(4 + 0.5 + 6 + 0.5), 4.5]

    def test_a_waiting_job_starts_when_there_is_capacity(self) -> None:
        times = finish_times([work(10, 2.0)], [work(2, 2.0), work(1, 2.0)], TimingModel(MEASURED))
        second = 2 * 1.5 + 0.5
        third = second + 1 * 1.5 + 0.5
        assert times == [pytest.approx(third + 7 * 1.0 + 0.5), second, third]

    def test_pictures_of_a_job_are_decoded_together(self) -> None:
        [one] = finish_times([work(1, images=1)], [], TimingModel(MEASURED))
        [two] = finish_times([work(1, images=2)], [], TimingModel(MEASURED))
        [four] = finish_times([work(1, images=4)], [], TimingModel(MEASURED))
        assert (one, two, four) == (1.5, 1.75, 2.5)

    def test_smaller_pictures_take_less(self) -> None:
        [small] = finish_times([work(8, load=0.25, pixels=0.25)], [], TimingModel(MEASURED))
        assert small == 8 * 1.0 + 0.25 * 0.5

    def test_no_jobs_take_no_time(self) -> None:
        assert finish_times([], [], TimingModel(MEASURED)) == []

    def test_an_unfinished_job_waits_behind_all_others_after_its_turn(self) -> None:
        times = finish_times(
            [dataclasses.replace(work(50, 4.0), turn=10)],
            [work(40, 4.0), work(5, 4.0)],
            TimingModel(MEASURED),
        )
        # Its last ten steps of a turn, thirty of the other long one, and then the short one.
        short = (10 + 30 + 5) * 1.5 + 0.5
        # Thirty of the forty steps that are left; nine and one more of the other long one.
        other = short + (30 + 10) * 1.5 + 0.5
        assert times == [other + 10 * 1.5 + 0.5, other, short]

    def test_a_turn_continues_when_no_job_waits(self) -> None:
        running = [dataclasses.replace(work(50, 2.0), turn=turn) for turn in (0, 20)]
        assert finish_times(running, [], TimingModel(MEASURED)) == [75.5, 76.0]

    def test_a_turn_of_a_larger_job_has_fewer_steps(self) -> None:
        large, small = finish_times([work(20, 16.0)], [work(1, 4.0)], TimingModel(MEASURED))
        assert small == TURN_STEPS // 4 * 6.0 + 1.5 + 0.5
        assert large > small

    @given(st.lists(of_any_length, max_size=3), st.lists(of_any_length, max_size=8))
    def test_no_job_is_done_before_its_own_steps_or_after_all_jobs_one_by_one(
        self, running: list[RemainingWork], waiting: list[RemainingWork]
    ) -> None:
        timing = TimingModel(MEASURED)
        works = [*running, *waiting]
        times = finish_times(running, waiting, timing)
        assert len(times) == len(works)
        longest = sum(each.steps * timing.step(each.load) + timing.decode(each) for each in works)
        for time, each in zip(times, works, strict=True):
            assert each.steps * 1.0 < time <= longest + 1e-6

    @given(st.lists(of_one_turn, max_size=3), st.lists(of_one_turn, max_size=8), of_one_turn)
    def test_one_more_job_delays_no_job_before_it_and_speeds_up_none(
        self, running: list[RemainingWork], waiting: list[RemainingWork], more: RemainingWork
    ) -> None:
        before = finish_times(running, waiting, TimingModel(MEASURED))
        after = finish_times(running, [*waiting, more], TimingModel(MEASURED))
        assert len(after) == len(before) + 1
        assert all(time > 0 for time in after)
        # It may take a place that was free, and make the steps of the others longer.
        assert all(late >= soon - 1e-9 for soon, late in zip(before, after, strict=False))
        assert after[-1] >= more.steps * 1.0

    @given(st.lists(of_any_length, min_size=2, max_size=8), st.data())
    def test_of_equal_jobs_the_earlier_is_done_first(
        self, ahead: list[RemainingWork], data: st.DataObject
    ) -> None:
        one = data.draw(of_any_length)
        times = finish_times([], [*ahead, one, one], TimingModel(MEASURED))
        assert times[-2] <= times[-1]


class TestTimingModel:
    def test_predictions_start_from_the_measurements(self) -> None:
        timing = TimingModel(MEASURED)
        assert [timing.step(load) for load in (0.1, 1.0, 1.5, 2.0, 4.0)] == [
            1.0,
            1.0,
            1.0,
            1.0,
            1.5,
        ]
        assert timing.step(8.0) == 3.0
        assert timing.capacity == 4.0

    def test_predictions_follow_the_steps_that_are_taken(self) -> None:
        timing = TimingModel(MEASURED)
        for _ in range(100):
            timing.observe(2.0, 2.0)
            timing.observe(4.0, 3.0)
        assert timing.step(2.0) == pytest.approx(2.0, rel=0.02)
        assert timing.decode(work(1)) == pytest.approx(1.0, rel=0.02)

    def test_a_size_with_a_bad_measurement_is_not_slower_than_a_larger_size(self) -> None:
        right = {1: 0.05, 2: 0.05, 4: 0.08, 8: 0.15}
        measured = replace(MEASURED, step_seconds={**right, 2: 0.5})
        timing = TimingModel(measured)
        assert timing.step(2.0) == 0.08
        for _ in range(400):
            timing.observe(2.0, 0.05)
        assert timing.step(8.0) > 0.09

    def test_a_single_pause_changes_little(self) -> None:
        timing = TimingModel(MEASURED)
        timing.observe(2.0, 10_000.0)
        assert timing.step(2.0) <= 2.0


@dataclass(frozen=True, slots=True)
class Mix:
    """What people ask for: steps, and sizes of pictures."""

    steps: Sequence[int]
    pixels: Sequence[int] = (GPU.pixels,)

    def asks(self, *, members: int, seed: int) -> list[Ask]:
        chance = random.Random(seed)
        return [
            Ask(
                number,
                0.0,
                Share("here", number % members),
                chance.choice(self.steps),
                chance.choice((1, 2, 2, 2, 2)),
                is_burst=False,
                pixels=chance.choice(self.pixels),
            )
            for number in range(40)
        ]


MIXES = {
    "one turn": Mix(range(8, 30)),
    "20 to 50 steps": Mix(range(20, 51)),
    "8 to 150 steps": Mix(range(8, 151)),
    "as in the simulation": Mix(STEPS),
    "several sizes": Mix(STEPS, [GPU.pixels] * 4 + [4 * GPU.pixels]),
}


@pytest.mark.parametrize("members", [1, 3, 40])
@pytest.mark.parametrize("mix", MIXES)
def test_estimates_are_within_a_fifth_of_the_simulated_queue(mix: str, members: int) -> None:
    """The error is reported by the median over the jobs, as the benchmark does."""
    asks = MIXES[mix].asks(members=members, seed=4)
    served = in_turns(asks)
    order = sorted(asks, key=lambda ask: served[ask.number].started)
    running = list(itertools.takewhile(lambda ask: served[ask.number].started == 0, order))
    todo = [RemainingWork(ask.steps, ask.load, 1, ask.pixels / 1e6) for ask in order]
    foretold = finish_times(todo[: len(running)], todo[len(running) :], TimingModel(GPU))
    errors = [
        abs(time / served[ask.number].finished - 1)
        for ask, time in zip(order, foretold, strict=True)
    ]
    assert statistics.median(errors) < 0.2
    # And nobody is told twice the time.
    assert max(errors) < 1


@pytest.mark.parametrize(
    ("step_seconds", "rows"),
    [
        pytest.param({2: 1.0}, 2, id="the only one"),
        pytest.param({16: 1.0}, 16, id="the only one, and a large one"),
        pytest.param({1: 1.0, 2: 1.0, 4: 1.5}, 4, id="the largest, which pays"),
        pytest.param({1: 10, 2: 11, 4: 13, 8: 18, 16: 28, 32: 40}, 32, id="a GPU of small steps"),
        pytest.param({2: 2.0, 4: 3.0, 8: 5.0, 16: 7.0, 32: 13.8}, 16, id="a little more for twice"),
        pytest.param({2: 2.0, 4: 3.0, 8: 4.0, 16: 8.0, 32: 17.0}, 8, id="twice as much for twice"),
        pytest.param({2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}, 8, id="a CPU, where nothing is won"),
        pytest.param({1: 1.0, 2: 1.1, 4: 9.0, 8: 18.0, 16: 40.0}, 8, id="noise in all but two"),
        pytest.param({1: 0.1, 2: 1.0, 4: 2.0}, 4, id="noise in the first"),
        pytest.param({2: 2.0, 4: 3.0, 8: 5.0, 16: 99.0, 32: 13.8}, 32, id="noise in the middle"),
    ],
)
def test_as_many_rows_share_a_step_as_pay_but_at_least_eight(
    step_seconds: dict[int, float], rows: int
) -> None:
    measured = dataclasses.replace(MEASURED, step_seconds=step_seconds)
    assert measured.rows == rows
    assert TimingModel(measured).capacity == rows * 1.0


def test_a_load_above_the_largest_call_uses_the_fastest_calls() -> None:
    timing = TimingModel(dataclasses.replace(MEASURED, step_seconds={2: 1.0, 8: 2.0, 16: 8.0}))
    assert timing.step(16.0) == timing.step(15.0) == 4.0
    assert timing.step(32.0) == 8.0
