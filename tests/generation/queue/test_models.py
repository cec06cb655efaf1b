"""Jobs for several models on an engine that has only some of them in memory."""

from __future__ import annotations

import itertools
import random

import pytest

from generation.queue import turns as turns_module
from generation.queue.fairness import FairQueue, Share
from generation.queue.turns import PATIENCE_CALLS, TURN_STEPS, ModelSpeed, Turns

from ...fairness.simulation import CAPACITY, MEASURED, Ask, Memory, Waiting, a_day, in_turns

CALL = MEASURED.step_seconds[8]


def job(model: str, member: str = "m", *, steps: int = 30, rows: int = 2, at: float = 0.0) -> Ask:
    share = Share("server", member)
    return Ask(next(_numbers), at, share, steps, rows, is_burst=False, model=model)


_numbers = itertools.count()


def turns_of(*jobs: Ask, loaded: str = "a", beside: str = "") -> Turns[Ask]:
    """Return turns with one letter for each model in memory, and for each that fits in beside."""
    turns: Turns[Ask] = Turns(CAPACITY)
    turns.loaded, turns.beside = frozenset(loaded), frozenset(beside)
    for each in jobs:
        turns.add(each)
    return turns


def started(turns: Turns[Ask]) -> list[Ask]:
    return list(iter(turns.start, None))


class TestPreference:
    def test_jobs_of_the_model_in_memory_go_first_for_a_while(self) -> None:
        b, first, second = job("b", "x"), job("a", "y"), job("a", "z")
        assert started(turns_of(b, first, second)) == [first, second]

    def test_a_model_is_loaded_when_the_running_jobs_have_ended(self) -> None:
        a, b = job("a"), job("b", "x")
        turns = turns_of(a, b)
        assert started(turns) == [a]
        turns.remove(a)
        assert started(turns) == [b]
        turns.add(job("a"))
        assert started(turns) == []

    def test_while_a_model_is_loaded_only_its_own_jobs_start_beside(self) -> None:
        b, a, other = job("b", "x"), job("a", "y"), job("b", "z")
        turns = turns_of(b, loaded="c")
        assert started(turns) == [b]
        turns.add(a)
        turns.add(other)
        assert started(turns) == [other]

    def test_models_that_fit_in_beside_run_together(self) -> None:
        a, b = job("a", "x"), job("b", "y")
        assert started(turns_of(a, b, loaded="ab")) == [a, b]

    def test_one_model_at_a_time_is_loaded_beside_those_in_memory(self) -> None:
        """The models b and c fit in beside a, and not beside each other."""
        b, c, a = job("b", "x"), job("c", "y"), job("a", "z")
        turns = turns_of(b, c, a, beside="bc")
        assert started(turns) == [b, a]
        turns.loaded, turns.beside = frozenset("ab"), frozenset()
        assert started(turns) == []
        turns.remove(b)
        turns.remove(a)
        assert started(turns) == [c]

    @pytest.mark.parametrize("beside", ["", "b"])
    def test_a_job_that_ends_before_its_model_is_loaded_leaves_the_others_ready(
        self, beside: str
    ) -> None:
        """A job that is cancelled at once, for instance: nothing is loaded for that job."""
        b, a, restarted = job("b", "x"), job("a", "y"), job("a", "z")
        turns = turns_of(b, beside=beside)
        assert started(turns) == [b]
        turns.remove(b)
        turns.add(job("c"))
        turns.add(a)
        turns.restart(restarted, alone=False)
        assert started(turns) == [restarted, a]

    def test_a_job_that_lost_its_engine_waits_until_its_model_can_be_loaded(self) -> None:
        a, b = job("a"), job("b", "x")
        turns = turns_of(a)
        assert started(turns) == [a]
        turns.restart(b, alone=False)
        assert started(turns) == []
        turns.remove(a)
        assert started(turns) == [b]

    def test_the_own_capacity_of_a_model_counts(self) -> None:
        jobs = [job("b", str(number)) for number in range(4)]
        turns = turns_of(*jobs, loaded="b")
        turns.speeds["b"] = ModelSpeed(CAPACITY / 4, cost=4.0)
        assert started(turns) == jobs[:1]

    @pytest.mark.parametrize("paused", [False, True])
    def test_the_first_job_is_passed_over_for_a_bounded_time(self, paused: bool) -> None:
        """However many jobs of the model in memory there are, and of however many people."""
        turns = turns_of(job("b", "x"))
        chance = random.Random(1)
        calls = 0.0
        while True:
            for _ in range(4):
                turns.add(job("a", f"newcomer {chance.random()}", steps=90 if paused else 30))
            if any(each.model == "b" for each in started(turns)):
                break
            for each in turns.running:
                each.taken += TURN_STEPS
                if each.taken >= each.steps:
                    turns.remove(each)
                else:
                    turns.end_turn(each)
            calls += TURN_STEPS
            assert calls <= PATIENCE_CALLS + 2 * TURN_STEPS
        assert calls >= PATIENCE_CALLS


def test_who_was_passed_over_is_the_next() -> None:
    order = FairQueue[str]()
    for name in ("b1", "a1", "a2", "a3", "b2"):
        order.add(name, Share("server", name[0] if name.startswith("b") else name), 5.0)
    assert order.pop_first(lambda name: name.startswith("a")) == "a1"
    order.add("late", Share("server", "newcomer"), 5.0)
    assert order.pop_first(lambda name: name == "none of them") is None
    assert order.first() == "b1"
    assert [order.pop() for _ in range(len(order))] == ["b1", "a2", "a3", "late", "b2"]


def test_what_is_taken_out_of_order_is_paid_for() -> None:
    order = FairQueue[str]()
    for name, cost in (("x1", 1.0), ("y1", 1.0), ("y2", 9.0), ("x2", 1.0), ("x3", 1.0)):
        order.add(name, Share("server", name[0]), cost)
    assert order.pop_first(lambda name: name == "y2") == "y2"
    assert [order.pop() for _ in range(len(order))] == ["x1", "x2", "x3", "y1"]


class TestDay:
    """A day of many members on a card that holds one of two models."""

    def served(self, load: float) -> tuple[Memory, Waiting]:
        asks = a_day(
            members=2_000,
            servers=20,
            load=load,
            bursts=4,
            burst_size=100,
            seed=5,
            models=("a", "a", "b"),
        )[:5_000]
        memory = Memory()
        served = in_turns(asks, memory)
        assert len(served) == len(asks)
        return memory, Waiting.of(served[ask.number].started for ask in asks if not ask.is_burst)

    def test_the_preference_saves_loads_and_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        memory, waiting = self.served(0.7)
        monkeypatch.setattr(turns_module, "PATIENCE_CALLS", 0)
        strict, strictly = self.served(0.7)
        assert memory.loads < strict.loads / 2
        assert waiting.median < strictly.median / 2
        assert waiting.p95 < strictly.p95 / 2

    def test_a_single_job_of_the_rare_model_does_not_wait_long(self) -> None:
        """Beside 400 jobs of other people that all came before, for the model in memory."""
        asks = [job("a", f"member {number}", at=0.0) for number in range(400)]
        rare = job("b", "rare", at=60.0)
        later = [job("a", f"late {number}", at=60 + 0.3 * number) for number in range(1, 2_000)]
        memory = Memory(loaded=["a"])
        served = in_turns([*asks, rare, *later], memory)
        bound = (PATIENCE_CALLS + 2 * TURN_STEPS) * CALL + memory.seconds
        # And the jobs that came before in the fair order: those of all who waited already.
        before = 400 / 4 * TURN_STEPS * CALL + 400 * MEASURED.decode_seconds[1]
        assert served[rare.number].started <= bound + before


class TestTwoLargeModels:
    """A card with a small model in memory and room for one of two large ones beside it."""

    def test_the_large_models_do_not_take_the_memory_from_each_other_at_each_step(self) -> None:
        memory = Memory(loaded=["small"], size=18, sizes={"small": 2, "large": 7, "larger": 16})
        models = ("large", "larger", "small")
        asks = [job(models[n % 3], f"member {n}", at=n // 8) for n in range(300)]
        served = in_turns(asks, memory)
        assert len(served) == len(asks)
        calls = len(asks) / 4 * TURN_STEPS
        assert memory.loads <= calls / PATIENCE_CALLS + 3
        last = max(served[ask.number].finished + ask.at for ask in asks)
        busy = calls * CALL + len(asks) * MEASURED.decode_seconds[1]
        assert last <= 1.2 * busy + memory.loads * memory.seconds
