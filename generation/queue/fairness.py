"""Whose turn it is: start-time fair queueing by engine time, among servers and their members.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996), at two levels: the servers
share the engine, and the members of a server share that server's part. A member's own jobs
stay in the order in which they came.

Everybody who has something waiting is a flow with a *start tag*. The flow with the smallest
tag is served next, and its tag then rises by the job's cost over the flow's weight. A flow
that comes back from being idle starts no lower than the *virtual time*: nobody saves up a
claim while away. The virtual time is that of Bennett and Zhang, "Hierarchical Packet Fair
Queueing Algorithms" (SIGCOMM 1996): no lower than the tag that is being served, and with each
job that is done it moves on by that job's part for each of those who wait. So nobody pays for
having had the engine to themselves: the virtual time rises with their tag.

Nobody starves. While a flow waits its tag stays where it is. Each job that is served in its
stead raises another flow's tag by at least the smallest cost over the largest weight, and the
virtual time by that over the number of flows that wait, which is bounded. So after finitely
many jobs anyone who comes starts above the waiting flow's tag, however many new ones come, and of
those who were there before only finitely many jobs have tags below it. In particular 200 jobs
of one member delay the first job of another by the one job that is being served when it comes.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ..values.request import GenerationRequest, start_step

J = TypeVar("J", bound=Hashable)

_GUIDED_ROWS: Final = 2
# So many flows are remembered before it is looked which of them may be forgotten.
_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class Share:
    """Who a job belongs to: a member of a group (a server), and how much weight they have.

    A member of weight 2 gets twice the engine time of one of weight 1 when both want it.
    """

    group: Hashable = None
    member: Hashable = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"a weight has to be above 0, not {self.weight}")


def cost(request: GenerationRequest) -> float:
    """Return what a request takes of the engine: steps x rows x pixels, in millions.

    It is known beforehand. An image has two rows under guidance and one without.
    """
    steps = request.steps - start_step(request.steps, request.strength)
    rows = request.count * (_GUIDED_ROWS if request.guidance_scale > 1 else 1)
    return steps * rows * request.width * request.height / 1e6


class Turns:
    """Start-time fair queueing among flows that each have one head waiting, or none."""

    def __init__(self) -> None:
        self._now = 0.0
        # What the job that is being served adds to the virtual time once it is done.
        self._coming = 0.0
        # When flows were last seen waiting: who waits on at the same time was never idle.
        self._left: dict[Hashable, float] = {}
        self._tags: dict[Hashable, float] = {}
        self._heads: list[tuple[float, int, Hashable]] = []
        self._waiting: dict[Hashable, int] = {}
        self._remembered = _REMEMBERED

    def __copy__(self) -> Turns:
        other = Turns()
        other._now = self._now
        other._coming = self._coming
        other._left = self._left.copy()
        other._tags = self._tags.copy()
        other._heads = self._heads.copy()
        other._waiting = self._waiting.copy()
        other._remembered = self._remembered
        return other

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self, flow: Hashable, arrival: int) -> None:
        """Have `flow` wait with a head that came as number `arrival`; ties go to the earlier."""
        tag = self._tags.get(flow, self._now)
        if self._left.pop(flow, None) != self._now:
            tag = max(tag, self._now)
        self._tags[flow] = tag
        self._waiting[flow] = arrival
        heapq.heappush(self._heads, (tag, arrival, flow))

    def lead(self, flow: Hashable, arrival: int) -> None:
        """Have a flow go on waiting with another head, which came as number `arrival`."""
        self._waiting[flow] = arrival
        heapq.heappush(self._heads, (self._tags[flow], arrival, flow))

    def leave(self, flow: Hashable) -> None:
        """Take a flow out whose last job was withdrawn."""
        del self._waiting[flow]
        self._left[flow] = self._now

    def first(self) -> Hashable:
        """Return the waiting flow whose turn it is.

        Raises:
            IndexError: none is waiting.
        """
        while True:
            tag, arrival, flow = self._heads[0]
            # What was served or withdrawn, and may be waiting again, left an entry behind.
            if self._waiting.get(flow) == arrival and self._tags[flow] == tag:
                return flow
            heapq.heappop(self._heads)

    def arrival(self, flow: Hashable) -> int:
        """Return the number with which the head of a waiting flow came."""
        return self._waiting[flow]

    def serve(self, flow: Hashable, amount: float) -> None:
        """Give `flow`, which is first, its turn; it waits no more until it says so again."""
        self._now = max(self._now + self._coming, self._tags[flow])
        self._coming = amount / len(self._waiting)
        del self._waiting[flow]
        self._tags[flow] += amount
        self._left[flow] = self._now
        if len(self._tags) > self._remembered:
            self._forget_idle(flow)

    def _forget_idle(self, served: Hashable) -> None:
        """Drop what has no consequences: the tags of idle flows at or below the virtual time.

        It is done again when there are twice as many tags, so that a turn costs no more where
        many wait or many are remembered.
        """
        for idle in [flow for flow, tag in self._tags.items() if tag <= self._now]:
            if idle not in self._waiting and idle != served:
                del self._tags[idle]
                self._left.pop(idle, None)
        self._remembered = max(_REMEMBERED, 2 * len(self._tags))


@dataclass(slots=True)
class _Waiting(Generic[J]):
    job: J
    share: Share
    cost: float
    arrival: int


class FairOrder(Generic[J]):
    """Jobs that wait, in the order in which it is fair to serve them."""

    def __init__(self) -> None:
        self._arrivals = itertools.count()
        self._groups = Turns()
        self._members: dict[Hashable, Turns] = {}
        self._queues: dict[tuple[Hashable, Hashable], deque[_Waiting[J]]] = {}
        self._shares: dict[J, Share] = {}
        self._of_members: Counter[Hashable] = Counter()
        self._of_groups: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[J]:
        """Yield the jobs in the order in which they will be served if nothing else comes."""
        future = FairOrder[J]()
        future._groups = copy.copy(self._groups)
        future._members = {
            group: copy.copy(turns) for group, turns in self._members.items() if turns
        }
        future._queues = {key: jobs.copy() for key, jobs in self._queues.items()}
        future._shares = self._shares.copy()
        future._of_members = self._of_members.copy()
        future._of_groups = self._of_groups.copy()
        while future:
            yield future.pop()

    @property
    def jobs(self) -> Collection[J]:
        """Return the waiting jobs in the order in which they came."""
        return self._shares.keys()

    def waiting_of(self, member: Hashable) -> int:
        """Return how many jobs of a member wait, in all groups."""
        return self._of_members[member]

    def waiting_in(self, group: Hashable) -> int:
        """Return how many jobs of a group wait."""
        return self._of_groups[group]

    def add(self, job: J, share: Share, cost: float) -> None:
        """Have `job` wait."""
        waiting = _Waiting(job, share, cost, next(self._arrivals))
        self._shares[job] = share
        self._of_members[share.member] += 1
        self._of_groups[share.group] += 1
        jobs = self._queues.setdefault((share.group, share.member), deque())
        jobs.append(waiting)
        if len(jobs) == 1:
            members = self._members.setdefault(share.group, Turns())
            was_idle = not members
            members.wait(share.member, waiting.arrival)
            if was_idle:
                self._groups.wait(share.group, waiting.arrival)

    def pop(self) -> J:
        """Return the job whose turn it is; it waits no more.

        Raises:
            IndexError: none is waiting.
        """
        group = self._groups.first()
        members = self._members[group]
        member = members.first()
        jobs = self._queues[group, member]
        served = jobs.popleft()
        self._forget(served.job)
        self._groups.serve(group, served.cost)
        members.serve(member, served.cost / served.share.weight)
        if jobs:
            members.wait(member, jobs[0].arrival)
        else:
            del self._queues[group, member]
        if members:
            self._groups.wait(group, members.arrival(members.first()))
        return served.job

    def remove(self, job: J) -> None:
        """Take a waiting job out, as if it had never come.

        Raises:
            KeyError: it is not waiting.
        """
        share = self._forget(job)
        key = (share.group, share.member)
        jobs = self._queues[key]
        was_head, arrival = jobs[0].job == job, jobs[0].arrival
        self._queues[key] = jobs = deque(waiting for waiting in jobs if waiting.job != job)
        if not was_head:
            return
        members = self._members[share.group]
        if jobs:
            members.lead(share.member, jobs[0].arrival)
        else:
            members.leave(share.member)
            del self._queues[key]
        if members and self._groups.arrival(share.group) == arrival:
            self._groups.lead(share.group, members.arrival(members.first()))
        elif not members:
            self._groups.leave(share.group)

    def _forget(self, job: J) -> Share:
        """Return whose a job was that waits no more."""
        share = self._shares.pop(job)
        for counter, key in (
            (self._of_members, share.member),
            (self._of_groups, share.group),
        ):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        return share
