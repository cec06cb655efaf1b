"""Who gets a place in the queue, whatever others do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.errors import GroupQueueFull, MemberQueueFull, QueueFull
from generation.queue.admission import Owner, Place, Places, QueueLimits


@dataclass
class Jobs:
    """Jobs that are submitted and wait, and the places that are held beside them."""

    limits: QueueLimits
    owners: list[Owner] = field(default_factory=list)
    held: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = Places(lambda _: self.limits)

    @property
    def waiting(self) -> int:
        return len(self.owners)

    def waiting_in(self, group: object) -> int:
        return sum(owner.group == group for owner in self.owners)

    def waiting_of(self, member: object) -> int:
        return sum(owner.member == member for owner in self.owners)

    def everybody(self) -> list[Owner]:
        return [*self.owners, *(place.owner for place in self.held)]

    def ask(self, group: int | None, member: int) -> bool:
        try:
            self.held.append(self.places.hold(Owner(group, member), self))
        except QueueFull:
            return False
        return True

    def submit(self, number: int) -> None:
        place = self.held.pop(number % len(self.held))
        self.owners.append(place.owner)
        place.release()

    def flood(self, group: int | None, members: range, each: int) -> int:
        """Return how many jobs these members brought in, who asked for so many each."""
        return sum(self.ask(group, member) for _ in range(each) for member in members)


def test_ten_accounts_of_one_server_leave_half_of_the_queue_to_other_servers() -> None:
    jobs = Jobs(QueueLimits(100, member=10))
    assert jobs.flood(1, range(11), each=10) == 50
    assert all(jobs.ask(2, member) for member in range(100, 105) for _ in range(10))
    with pytest.raises(QueueFull, match=r"The queue is full \(100 pictures are waiting\)"):
        jobs.places.hold(Owner(1, 0), jobs)
    # Full for those who have something waiting; not for those who have nothing.
    assert jobs.ask(3, 200)
    assert jobs.ask(2, 201)
    assert jobs.ask(1, 202)


def test_a_server_of_puppet_accounts_with_one_job_each_is_limited_too() -> None:
    jobs = Jobs(QueueLimits(100, member=10))
    assert jobs.flood(1, range(1_000), each=1) == 100
    with pytest.raises(GroupQueueFull, match="100 pictures of this server are waiting already"):
        jobs.places.hold(Owner(1, 2_000), jobs)
    assert jobs.flood(None, range(3_000, 4_000), each=1) == 100
    with pytest.raises(GroupQueueFull, match="or ask in a server"):
        jobs.places.hold(Owner(None, 5_000), jobs)
    assert jobs.ask(2, 6_000)


def test_servers_of_puppet_accounts_leave_a_place_to_every_idle_server() -> None:
    jobs = Jobs(QueueLimits(100, member=10))
    # The second one finds fewer places than the first, and so on.
    brought = [
        jobs.flood(server, range(500 * server, 500 * server + 500), each=1) for server in range(20)
    ]
    assert brought[:6] == [100, 100, 100, 50, 25, 13]
    assert brought[10:] == [1] * 10
    assert jobs.ask(99, -1)
    with pytest.raises(QueueFull):
        jobs.places.hold(Owner(99, -2), jobs)


def test_there_is_a_hard_limit() -> None:
    jobs = Jobs(QueueLimits(1, member=1))
    jobs.owners = [Owner(server, server) for server in range(jobs.limits.hard_limit)]
    assert not jobs.ask(-1, -1)
    jobs.owners.pop()
    assert jobs.ask(-1, -1)


def test_a_short_queue_still_admits_a_member_up_to_the_members_limit() -> None:
    jobs = Jobs(QueueLimits(2, member=10))
    assert jobs.flood(1, range(1), each=5) == 2
    assert Jobs(QueueLimits(12, member=10)).flood(1, range(1), each=20) == 10


def test_a_server_limit_above_the_total_means_the_total() -> None:
    assert Jobs(QueueLimits(10, group=1_000)).flood(1, range(2), each=20) == 10


Steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "submit", "fail", "end"]),
        st.one_of(st.none(), st.integers(1, 3)),
        st.integers(0, 12),
    ),
    max_size=150,
)
Bounds = st.builds(
    QueueLimits,
    st.integers(1, 12),
    member=st.one_of(st.none(), st.integers(1, 4)),
    group=st.one_of(st.none(), st.integers(1, 12)),
)


@given(Bounds, st.integers(0, 30), Steps)
def test_newcomers_get_a_place_and_no_member_exceeds_the_limit(
    limits: QueueLimits, before: int, steps: list[tuple[str, int | None, int]]
) -> None:
    jobs = Jobs(limits)
    # Those from before a restart, which are never asked for a place.
    jobs.owners = [Owner(9, 99)] * before
    for what, group, number in steps:
        if what == "ask":
            _ask(jobs, group, number)
        elif what == "submit" and jobs.held:
            jobs.submit(number)
        elif what == "fail" and jobs.held:
            jobs.held.pop(number % len(jobs.held)).release()
        elif what == "end" and jobs.owners:
            jobs.owners.pop(number % len(jobs.owners))
        assert jobs.places.held == len(jobs.held)
    for place in jobs.held:
        place.release()
        place.release()
    assert jobs.places.held == 0
    assert not jobs.places._of_members


def _ask(jobs: Jobs, group: int | None, member: int) -> None:
    owners, limits = jobs.everybody(), jobs.limits
    of_group = Counter(owner.group for owner in owners)[group]
    of_member = Counter(owner.member for owner in owners)[member]
    is_taken = jobs.ask(group, member)
    if of_member == 0 and of_group == 0 and len(owners) < limits.hard_limit:
        assert is_taken
    if of_member == 0 and of_group < limits.of_group:
        assert is_taken
    if of_member and (len(owners) >= limits.total or of_group >= limits.of_group):
        assert not is_taken
    if of_member >= limits.of_member or of_group >= limits.of_group_at_most:
        assert not is_taken
    if of_member < limits.of_member and of_group < limits.of_group and len(owners) < limits.total:
        assert is_taken


def test_each_server_has_its_own_limits() -> None:
    limits = {1: QueueLimits(100, member=10, group=4), 2: QueueLimits(100, member=3)}
    jobs = Jobs(limits[1])
    jobs.places = Places(limits.__getitem__)
    assert jobs.flood(1, range(1), each=20) == 4
    assert jobs.flood(2, range(10, 11), each=20) == 3


def test_a_members_own_limit_is_reported_first() -> None:
    jobs = Jobs(QueueLimits(4, member=2))
    assert jobs.flood(1, range(1), each=9) == 2
    with pytest.raises(MemberQueueFull, match="2 of your pictures"):
        jobs.places.hold(Owner(1, 0), jobs)
