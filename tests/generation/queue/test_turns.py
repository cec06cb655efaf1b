from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.queue.fairness import Share
from generation.queue.turns import TURN_STEPS, Turns, turn_steps

from ...fairness.simulation import CAPACITY, MEASURED, Ask, in_turns

numbers = itertools.count()


def job(
    member: str = "", *, steps: int = 20, rows: int = 2, at: float = 0.0, server: str = "here"
) -> Ask:
    return Ask(next(numbers), at, Share(server, member), steps, rows, is_burst=False)


def large(member: str = "large", *, steps: int) -> Ask:
    """Return a job whose steps exceed the capacity four times over."""
    share = Share("here", member)
    return Ask(next(numbers), 0.0, share, steps, 8, is_burst=False, pixels=4 * MEASURED.pixels)


ROWS = job(rows=1).load
# What those take who share a call for a whole turn, and end with it.
TURN = TURN_STEPS * MEASURED.step_seconds[8] + 4 * MEASURED.decode_seconds[1]


def started(turns: Turns[Ask], rows: float | None) -> list[Ask]:
    """Return the jobs that start with a capacity of so many rows."""
    turns.capacity = None if rows is None else rows * ROWS
    return list(iter(turns.start, None))


def turns_of(*jobs: Ask) -> Turns[Ask]:
    turns: Turns[Ask] = Turns()
    for each in jobs:
        turns.add(each)
    return turns


class TestCapacity:
    def test_jobs_start_while_there_is_capacity(self) -> None:
        jobs = [job(str(number)) for number in range(6)]
        turns = turns_of(*jobs)
        assert started(turns, 8) == turns.running == jobs[:4]
        assert turns.waiting == 2
        turns.remove(jobs[1])
        assert started(turns, 8) == [jobs[4]]

    def test_one_job_runs_at_a_time_while_the_capacity_is_unknown(self) -> None:
        jobs = [job(), job()]
        turns = turns_of(*jobs)
        assert started(turns, None) == jobs[:1]
        assert started(turns, None) == []

    def test_a_job_larger_than_the_capacity_still_starts(self) -> None:
        huge, small = job(rows=32), job("other", rows=1)
        turns = turns_of(huge, small)
        assert started(turns, 8) == [huge]
        turns.remove(huge)
        assert started(turns, 8) == [small]


class TestTurns:
    def test_a_turn_ends_only_if_another_job_waits(self) -> None:
        long, other = job("long", steps=100), job("other")
        turns = turns_of(long)
        assert started(turns, 2) == [long]
        long.taken = TURN_STEPS
        assert not turns.end_turn(long)
        turns.add(other)
        long.taken = TURN_STEPS + 1
        assert turns.end_turn(long)
        assert not turns.is_running(long)
        assert started(turns, 2) == [other]
        turns.remove(other)
        assert started(turns, 2) == [long]
        assert long.turn_ends == 2 * TURN_STEPS + 1

    def test_a_turn_does_not_end_early_nor_after_the_last_step(self) -> None:
        running, other = job("running", steps=TURN_STEPS), job("other")
        turns = turns_of(running, other)
        assert started(turns, 2) == [running]
        for running.taken in (TURN_STEPS - 1, TURN_STEPS):
            assert not turns.end_turn(running)

    def test_a_short_job_is_not_stuck_behind_long_jobs(self) -> None:
        long = [job(f"long {number}", steps=1_000) for number in range(8)]
        short = job("short", steps=4, at=1.0)
        served = in_turns([*long, short])
        # Four are at their first turn, and four came before it.
        assert served[short.number].started <= 2 * TURN
        assert served[short.number].finished <= 3 * TURN
        assert min(served[each.number].finished for each in long) > 20 * TURN

    @pytest.mark.parametrize(
        ("load", "capacity", "steps"),
        [
            (1.0, None, TURN_STEPS),
            (1.0, 8.0, TURN_STEPS),
            (8.0, 8.0, TURN_STEPS),
            (16.0, 8.0, TURN_STEPS // 2),
            (32.0, 8.0, TURN_STEPS // 4),
            (8_000.0, 8.0, 1),
        ],
    )
    def test_a_turn_of_expensive_steps_has_fewer_steps(
        self, load: float, capacity: float | None, steps: int
    ) -> None:
        assert turn_steps(load, capacity) == steps

    def test_a_turn_of_a_job_larger_than_the_capacity_ends_sooner(self) -> None:
        huge, other = large(steps=100), job("other")
        turns = turns_of(huge, other)
        assert started(turns, 8) == [huge]
        huge.taken = TURN_STEPS // 4 - 1
        assert not turns.end_turn(huge)
        huge.taken += 1
        assert turns.end_turn(huge)

    @pytest.mark.parametrize("count", [1, 4])
    def test_a_small_short_job_is_not_stuck_behind_huge_steps(self, count: int) -> None:
        huge = [large(f"large {number}", steps=150) for number in range(count)]
        assert huge[0].load == 4 * CAPACITY
        short = job("short", steps=4, at=1.0)
        served = in_turns([*huge, short])
        # Those who came before it have a turn each, which takes no longer than any other.
        assert served[short.number].started <= count * 1.1 * TURN
        assert served[short.number].finished <= (count + 1.1) * TURN
        assert min(served[each.number].finished for each in huge) > 10 * count * TURN

    def test_a_member_is_charged_for_no_more_than_the_turn(self) -> None:
        """Otherwise a huge job would wait for four turns of others before each of its turns."""
        turns = Turns[Ask](CAPACITY)
        huge, long = large(steps=150), [job("long", steps=150, rows=8) for _ in range(9)]
        for each in (huge, *long):
            turns.add(each)
        was_huge = []
        for _ in range(8):
            running = turns.start()
            assert running is not None
            was_huge.append(running is huge)
            running.taken = running.turn_ends
            assert turns.end_turn(running)
        assert was_huge == [True, False] * 4

    def test_long_jobs_are_finished_however_many_short_ones_come(self) -> None:
        long = job("long", steps=150)
        # A fifth more than the engine can do, without an end.
        newcomers = [
            job(f"newcomer {number}", steps=10, at=0.3 * number) for number in range(2_000)
        ]
        served = in_turns([long, *newcomers])
        last = max(newcomers, key=lambda ask: ask.at)
        assert served[long.number].finished < last.at / 4

    def test_jobs_of_equal_length_are_finished_one_after_the_other(self) -> None:
        jobs = [job(str(number), steps=TURN_STEPS) for number in range(40)]
        served = in_turns(jobs)
        ends = sorted(served[each.number].finished for each in jobs)
        assert ends[3] < ends[-1] / 8


class TestShares:
    @pytest.mark.parametrize("server", ["here", "elsewhere"])
    @pytest.mark.parametrize("steps", [20, 50, 150])
    def test_no_member_waits_more_than_a_turn_behind_two_hundred_jobs_of_another(
        self, server: str, steps: int
    ) -> None:
        hog = [job("hog", steps=steps) for _ in range(200)]
        other = job("other", at=3.0, server=server)
        served = in_turns([*hog, other])
        assert served[other.number].started <= TURN
        assert max(served[each.number].started for each in hog) > 20 * TURN


class TestAfterALoss:
    def test_suspects_run_alone_before_all_others(self) -> None:
        jobs = [job(str(number)) for number in range(5)]
        turns = turns_of(*jobs)
        assert started(turns, 8) == jobs[:4]
        turns.restart(jobs[2], alone=False)
        turns.restart(jobs[0], alone=True)
        turns.restart(jobs[1], alone=True)
        assert list(turns.ordered()) == [jobs[0], jobs[1], jobs[2], jobs[4]]
        assert started(turns, 8) == []
        turns.remove(jobs[3])
        for suspect in jobs[:2]:
            assert started(turns, 8) == [suspect]
            turns.remove(suspect)
        assert started(turns, 8) == [jobs[2], jobs[4]]

    def test_a_suspect_keeps_the_engine_to_itself_until_it_is_done(self) -> None:
        suspect, other = job("suspect", steps=100), job("other")
        turns = turns_of(suspect, other)
        started(turns, 2)
        turns.restart(suspect, alone=True)
        assert started(turns, 8) == [suspect]
        suspect.taken = 60
        assert not turns.end_turn(suspect)
        assert started(turns, 8) == []

    def test_running_jobs_end_their_turn_for_suspects(self) -> None:
        long, suspect = job("long", steps=100), job("suspect")
        turns = turns_of(long, suspect)
        assert started(turns, 8) == [long, suspect]
        turns.restart(suspect, alone=True)
        long.taken = TURN_STEPS
        assert turns.end_turn(long)
        assert started(turns, 8) == [suspect]


class Plan:
    """Turns, and random actions on them."""

    def __init__(self, chance: random.Random) -> None:
        self.turns: Turns[Ask] = Turns()
        self.alive: set[Ask] = set()
        self.chance = chance
        self.capacity = chance.choice([None, 2, 8])

    def check(self) -> None:
        waiting, running = list(self.turns.unordered()), self.turns.running
        assert len(waiting) == self.turns.waiting
        assert len(waiting) + len(running) == len(self.alive)
        assert {*waiting, *running} == self.alive
        assert set(self.turns.ordered()) == set(waiting)
        assert len(running) == 1 or not any(each.alone for each in running)
        assert running or not waiting
        if self.capacity and len(running) > 1:
            assert sum(each.rows for each in running[:-1]) < self.capacity

    def ask(self) -> None:
        new = job(self.chance.choice("abc"), steps=self.chance.choice([1, 20, 31, 90]))
        self.alive.add(new)
        self.turns.add(new)

    def step(self, count: int = 10) -> None:
        for each in self.turns.running:
            each.taken = min(each.steps, each.taken + count)
            if each.taken == each.steps:
                self.withdraw(each)
            else:
                self.turns.end_turn(each)

    def withdraw(self, gone: Ask | None = None) -> None:
        if gone is None and self.alive:
            gone = self.chance.choice(sorted(self.alive, key=lambda each: each.number))
        if gone is not None:
            self.alive.remove(gone)
            self.turns.remove(gone)

    def break_down(self) -> None:
        alone = self.chance.random() < 0.5
        for each in self.turns.running:
            each.taken = 0
            self.turns.restart(each, alone=alone)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_every_job_either_waits_or_runs_and_ends_at_last(chance: random.Random) -> None:
    plan = Plan(chance)
    acts = [plan.ask, plan.ask, plan.step, plan.step, plan.withdraw, plan.break_down]
    for _ in range(60):
        chance.choice(acts)()
        started(plan.turns, plan.capacity)
        plan.check()
    for _ in range(1_000):
        plan.step()
        started(plan.turns, plan.capacity)
        plan.check()
        if not plan.alive:
            return
    pytest.fail(f"{plan.alive} are left")
