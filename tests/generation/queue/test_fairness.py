from __future__ import annotations

import itertools
from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.queue import fairness
from generation.queue.fairness import _REMEMBERED, FairQueue, FlowQueue, Share, cost
from generation.values.pixels import Pixels

from ...fairness.simulation import Waiting, a_day, in_turns, one_by_one
from ..examples import a_request

shares = st.builds(
    Share,
    group=st.integers(1, 3),
    member=st.integers(1, 4),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
)
costs = st.floats(0.1, 10.0)


def test_the_cost_is_steps_times_rows_times_pixels() -> None:
    plain = a_request(width=64, height=96, steps=20, guidance_scale=1.0, count=1)
    assert cost(plain) == pytest.approx(20 * 64 * 96 / 1e6)
    guided = a_request(width=64, height=96, steps=20, guidance_scale=4.0, count=3)
    assert cost(guided) == pytest.approx(6 * cost(plain))
    similar = a_request(
        width=64,
        height=96,
        steps=20,
        guidance_scale=1.0,
        source=Pixels(64, 96, bytes(3 * 64 * 96)),
        strength=0.5,
    )
    assert cost(similar) == pytest.approx(cost(plain) / 2)


def test_a_step_of_two_calls_costs_twice_as_much() -> None:
    costs = {name: cost(a_request(scheduler=name)) for name in ("euler", "heun", "dpmpp_sde")}
    assert costs["heun"] == costs["dpmpp_sde"] == 2 * costs["euler"]


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Share(weight=0.0)


def test_two_hundred_waiting_jobs_of_one_member_do_not_delay_another_member() -> None:
    order: FairQueue[str] = FairQueue()
    for number in range(200):
        order.add(f"hog {number}", Share("server", "hog"), 1.0)
    assert order.pop() == "hog 0"
    order.add("same server", Share("server", "other"), 1.0)
    order.add("other server", Share("elsewhere", "somebody"), 1.0)
    assert {order.pop(), order.pop()} == {"same server", "other server"}


def test_small_jobs_are_not_stuck_behind_large_ones() -> None:
    order: FairQueue[str] = FairQueue()
    for number in range(5):
        order.add(f"large {number}", Share("server", "large"), 100.0)
        order.add(f"small {number}", Share("server", "small"), 1.0)
    assert [order.pop() for _ in range(6)] == [
        "large 0",
        *(f"small {number}" for number in range(5)),
    ]


def test_a_member_who_had_the_engine_alone_owes_nothing_for_it() -> None:
    order: FairQueue[str] = FairQueue()
    for number in range(100):
        order.add(f"alone {number}", Share("server", "alone"), 1.0)
        order.pop()
    for number in range(3):
        order.add(f"old {number}", Share("server", "alone"), 1.0)
        order.add(f"new {number}", Share("server", "new"), 1.0)
    served = [order.pop()[:3] for _ in range(6)]
    assert served == ["new", "old", "new", "old", "new", "old"]


def test_an_idle_member_saves_up_no_claim() -> None:
    order: FairQueue[str] = FairQueue()
    for number in range(50):
        order.add(f"busy {number}", Share("server", "busy"), 1.0)
    for _ in range(40):
        order.pop()
    for number in range(10):
        order.add(f"back {number}", Share("server", "back"), 1.0)
    served = [order.pop()[:4] for _ in range(10)]
    assert served.count("back") == served.count("busy") == 5


@given(st.lists(st.tuples(shares, costs), max_size=40))
def test_each_job_is_served_once_in_the_predicted_order(
    jobs: list[tuple[Share, float]],
) -> None:
    order: FairQueue[int] = FairQueue()
    for number, (share, amount) in enumerate(jobs):
        order.add(number, share, amount)
    foretold = list(order)
    assert len(order) == len(jobs)
    served = [order.pop() for _ in jobs]
    assert served == foretold
    assert sorted(served) == list(range(len(jobs)))
    with pytest.raises(IndexError):
        order.pop()
    of_member = defaultdict(list)
    for number in served:
        share = jobs[number][0]
        of_member[share.group, share.member].append(number)
    assert all(numbers == sorted(numbers) for numbers in of_member.values())


@given(st.lists(st.tuples(shares, costs, st.booleans()), max_size=40))
def test_a_removed_job_leaves_the_order_as_if_it_had_never_come(
    jobs: list[tuple[Share, float, bool]],
) -> None:
    order: FairQueue[int] = FairQueue()
    without: FairQueue[int] = FairQueue()
    for number, (share, amount, withdrawn) in enumerate(jobs):
        order.add(number, share, amount)
        if not withdrawn:
            without.add(number, share, amount)
    for number, (_, _, withdrawn) in enumerate(jobs):
        if withdrawn:
            order.remove(number)
    assert list(order.jobs) == list(without.jobs)
    assert list(order) == list(without)
    with pytest.raises(KeyError):
        order.remove(-1)


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 5.0]), costs), min_size=2, max_size=5),
    st.integers(10, 60),
)
def test_members_with_waiting_jobs_get_engine_time_by_weight(
    members: list[tuple[float, float]], turns: int
) -> None:
    """The bound of Goyal et al., theorem 1: no two differ by more than a job of each."""
    order: FairQueue[tuple[int, int]] = FairQueue()
    numbers = itertools.count()
    got = [0.0] * len(members)

    def ask(member: int) -> None:
        weight, amount = members[member]
        order.add((member, next(numbers)), Share("server", member, weight), amount)

    for member in range(len(members)):
        ask(member)
        ask(member)
    for _ in range(turns):
        member, _ = order.pop()
        weight, amount = members[member]
        got[member] += amount / weight
        ask(member)
    for one, other in itertools.combinations(range(len(members)), 2):
        bound = sum(members[member][1] / members[member][0] for member in (one, other))
        assert abs(got[one] - got[other]) <= bound * 1.000001


def test_no_job_starves_however_many_newcomers_there_are() -> None:
    order: FairQueue[str] = FairQueue()
    order.add("patient", Share("server", "patient"), 50.0)
    order.add("hog", Share("server", "hog"), 1.0)
    newcomers: deque[str] = deque(f"newcomer {number}" for number in range(1_000))
    served = 0
    while (job := order.pop()) != "patient":
        served += 1
        assert served <= 3
        newcomer = newcomers.popleft()
        order.add(newcomer, Share("server", newcomer), 1.0)
        assert job


def test_no_job_starves_between_two_turns_however_many_newcomers_there_are() -> None:
    order: FairQueue[str] = FairQueue()
    order.add("patient", Share("server", "patient"), 50.0)
    for number in range(10):
        order.add(f"newcomer {number}", Share("server", number), 1.0)
    assert order.pop() == "patient"
    order.add("patient", Share("server", "patient"), 50.0)
    for served in itertools.count():
        if order.pop() == "patient":
            break
        order.add(f"newcomer {served + 10}", Share("server", served + 10), 1.0)
        assert served < 1_000
    # Its first turn was worth fifty of theirs, and ten or eleven wait at a time.
    assert 300 < served < 600


def test_in_a_simulated_day_turns_help_people_who_ask_for_one_picture() -> None:
    asks = a_day(members=500, servers=5, load=0.6, bursts=40, burst_size=200, seed=3)[:6_000]
    fair, plain = in_turns(asks), one_by_one(asks)
    single = [ask.number for ask in asks if not ask.is_burst]
    assert len(fair) == len(plain) == len(asks)
    assert (
        Waiting.of(fair[n].started for n in single).p95
        < Waiting.of(plain[n].started for n in single).p95 / 10
    )
    assert (
        Waiting.of(fair[n].finished for n in single).median
        < Waiting.of(plain[n].finished for n in single).median
    )
    # Whoever asks for hundreds waits for hundreds, but no longer than a few bursts take.
    assert max(job.finished for job in fair.values()) < 3_600


def test_in_a_simulated_day_of_ten_thousand_members_no_job_starves() -> None:
    asks = a_day(members=10_000, servers=50, load=0.7, bursts=20, burst_size=200, seed=1)
    served = in_turns(asks)
    assert len(served) == len(asks) > 30_000
    assert all(0 <= job.started < job.finished for job in served.values())
    assert Waiting.of(job.started for job in served.values()).worst < 3_600


def test_a_server_with_many_members_gets_no_more_turns_for_it() -> None:
    order: FairQueue[str] = FairQueue()
    order.add("a first", Share("a", "first"), 1.0)
    order.add("a first again", Share("a", "first"), 1.0)
    for number in range(3):
        order.add(f"b {number}", Share("b", number), 1.0)
    served = []
    for number in range(6):
        served.append(order.pop()[0])
        order.add(f"a newcomer {number}", Share("a", f"newcomer {number}"), 1.0)
    for turns in range(1, 7):
        assert abs(served[:turns].count("a") - served[:turns].count("b")) <= 1, served


def test_few_flows_are_remembered_however_many_have_come() -> None:
    turns, order = FlowQueue(), FairQueue[int]()
    for number in range(5_000):
        turns.enqueue(number, number)
        turns.serve(turns.first(), 1.0)
        order.add(number, Share(number % 3, number), 1.0)
        assert order.waiting_of(number) == 1
        assert order.pop() == number
        assert order.waiting_of(number) == 0
    assert len(turns._tags) <= 2 * _REMEMBERED
    assert len(turns._left) <= 2 * _REMEMBERED
    assert not order._of_members


@given(st.lists(st.tuples(shares, costs, st.booleans()), max_size=60))
def test_forgetting_idle_flows_changes_no_order(
    jobs: list[tuple[Share, float, bool]],
) -> None:
    def served(remembered: int) -> list[int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fairness, "_REMEMBERED", remembered)
            order = FairQueue[int]()
            out = []
            for number, (share, amount, serve) in enumerate(jobs):
                order.add(number, share, amount)
                if serve:
                    out.append(order.pop())
            return out + [order.pop() for _ in range(len(order))]

    assert served(0) == served(1_000)


@given(st.lists(st.tuples(shares, st.sampled_from(["add", "pop", "remove"])), max_size=40))
def test_the_waiting_jobs_of_members_and_groups_are_counted(
    acts: list[tuple[Share, str]],
) -> None:
    order = FairQueue[int]()
    waiting: dict[int, Share] = {}
    for number, (share, act) in enumerate(acts):
        if act == "add":
            order.add(number, share, 1.0)
            waiting[number] = share
        elif waiting and act == "pop":
            del waiting[order.pop()]
        elif waiting:
            gone = next(iter(waiting))
            order.remove(gone)
            del waiting[gone]
        for member in range(1, 5):
            of_member = [each for each in waiting.values() if each.member == member]
            assert order.waiting_of(member) == len(of_member)
