"""Start-time fair queueing of engine time, among servers and among their members.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996), at two levels: the servers share
the engine, and the members of a server share the server's part. The jobs of one member keep the
order in which they came.

A member or server with a waiting job is a flow, and each flow has a *start tag*. The flow with the
smallest tag is served next. Its tag then rises by the job's cost, divided by the flow's weight.
There is also a *virtual time*, and a flow that was idle starts no lower than the virtual time:
nobody saves up a claim while idle. The virtual time follows Bennett and Zhang, "Hierarchical Packet
Fair Queueing Algorithms" (SIGCOMM 1996). It is never below the tag that is being served, and each
finished job moves it on by the job's cost divided by the number of waiting flows. So a flow that
had the engine alone owes nothing for it: the virtual time rose together with its tag.

No flow starves. The tag of a waiting flow stays the same. Each job that is served first raises
another flow's tag by at least the smallest cost over the largest weight. It also raises the virtual
time by that amount over the number of waiting flows, which is bounded. So after finitely many jobs
every new flow starts above the waiting flow's tag, however many new flows come. Of the flows that
were there before, only finitely many jobs have tags below it. In particular, 200 jobs of one member
delay the first job of another member only by the job that is being served when it comes.

A job may be served out of order (`FairQueue.pop_first`). Its member and server pay for it all the
same, so a member who was passed over is still the next one.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ..schedulers.registry import REGISTRY
from ..values.request import GenerationRequest, start_step

J = TypeVar("J", bound=Hashable)

# Idle flows are cleaned up when there are more flows than this.
_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class Share:
    """The owner of a job: a member of a group (a server), and the member's weight.

    A member of weight 2 gets twice the engine time of a member of weight 1, if both have jobs.
    """

    group: Hashable = None
    member: Hashable = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"a weight has to be above 0, not {self.weight}")


def cost(request: GenerationRequest) -> float:
    """Return the engine time of a request: steps x rows x pixels, in millions.

    An image has two rows with guidance and one row without. Each row also holds the references. A
    step of some schedulers takes two calls.
    """
    steps = request.steps - start_step(request.steps, request.strength)
    steps *= REGISTRY[request.scheduler].calls
    pixels = request.width * request.height
    pixels += sum(picture.width * picture.height for picture in request.references)
    return steps * request.count * request.rows * pixels / 1e6


class FlowQueue:
    """Start-time fair queueing among flows; each flow has one waiting head, or none."""

    def __init__(self) -> None:
        self._now = 0.0
        # Added to the virtual time when the job that is being served is done.
        self._coming = 0.0
        # The virtual time when each flow last waited: a flow that comes back then was never idle.
        self._left: dict[Hashable, float] = {}
        self._tags: dict[Hashable, float] = {}
        self._heads: list[tuple[float, int, Hashable]] = []
        self._waiting: dict[Hashable, int] = {}
        self._remembered = _REMEMBERED

    def __copy__(self) -> FlowQueue:
        other = FlowQueue()
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

    def enqueue(self, flow: Hashable, arrival: int) -> None:
        """Add `flow`, whose head came as number `arrival`; the earlier of equal tags is first."""
        tag = self._tags.get(flow, self._now)
        if self._left.pop(flow, None) != self._now:
            tag = max(tag, self._now)
        self._tags[flow] = tag
        self._waiting[flow] = arrival
        heapq.heappush(self._heads, (tag, arrival, flow))

    def replace_head(self, flow: Hashable, arrival: int) -> None:
        """Give a waiting flow another head, which came as number `arrival`."""
        self._waiting[flow] = arrival
        heapq.heappush(self._heads, (self._tags[flow], arrival, flow))

    def withdraw(self, flow: Hashable) -> None:
        """Remove a flow whose last job was removed."""
        del self._waiting[flow]
        self._left[flow] = self._now

    def first(self) -> Hashable:
        """Return the waiting flow that is served next.

        Raises:
            IndexError: no flow waits.
        """
        while True:
            tag, arrival, flow = self._heads[0]
            # A flow that was served or removed left its old entry in the heap.
            if self._waiting.get(flow) == arrival and self._tags[flow] == tag:
                return flow
            heapq.heappop(self._heads)

    def arrival(self, flow: Hashable) -> int:
        """Return the number with which the head of a waiting flow came."""
        return self._waiting[flow]

    def in_order(self) -> list[Hashable]:
        """Return the waiting flows, the one that is served next first."""
        return sorted(self._waiting, key=lambda flow: (self._tags[flow], self._waiting[flow]))

    def serve(self, flow: Hashable, amount: float) -> None:
        """Charge a waiting `flow` for `amount`, and remove it until it is added again."""
        # The tag of the first flow, not of this one: it may be served out of order.
        self._now = max(self._now + self._coming, self._tags[self.first()])
        self._coming = amount / len(self._waiting)
        del self._waiting[flow]
        self._tags[flow] += amount
        self._left[flow] = self._now
        if len(self._tags) > self._remembered:
            self._forget_idle(flow)

    def _forget_idle(self, served: Hashable) -> None:
        """Drop the tags of idle flows at or below the virtual time, which have no effect.

        The next clean-up comes when there are twice as many tags, so its cost stays constant per
        served job.
        """
        for idle in [flow for flow, tag in self._tags.items() if tag <= self._now]:
            if idle not in self._waiting and idle != served:
                del self._tags[idle]
                self._left.pop(idle, None)
        self._remembered = max(_REMEMBERED, 2 * len(self._tags))


@dataclass(slots=True, eq=False)
class _Waiting(Generic[J]):
    job: J
    share: Share
    cost: float
    arrival: int


class FairQueue(Generic[J]):
    """Waiting jobs in their fair order."""

    def __init__(self) -> None:
        self._arrivals = itertools.count()
        self._groups = FlowQueue()
        self._members: dict[Hashable, FlowQueue] = {}
        self._queues: dict[tuple[Hashable, Hashable], deque[_Waiting[J]]] = {}
        self._shares: dict[J, Share] = {}
        self._of_members: Counter[Hashable] = Counter()
        self._of_groups: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[J]:
        """Yield the jobs in the order in which they are served, as if no other job came."""
        future = FairQueue[J]()
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
        """Return the waiting jobs in the order of their arrival."""
        return self._shares.keys()

    def waiting_of(self, member: Hashable) -> int:
        """Return how many jobs of a member wait, in all groups."""
        return self._of_members[member]

    def waiting_in(self, group: Hashable) -> int:
        """Return how many jobs of a group wait."""
        return self._of_groups[group]

    def add(self, job: J, share: Share, cost: float) -> None:
        """Add a job."""
        waiting = _Waiting(job, share, cost, next(self._arrivals))
        self._shares[job] = share
        self._of_members[share.member] += 1
        self._of_groups[share.group] += 1
        jobs = self._queues.setdefault((share.group, share.member), deque())
        jobs.append(waiting)
        if len(jobs) == 1:
            members = self._members.setdefault(share.group, FlowQueue())
            was_idle = not members
            members.enqueue(share.member, waiting.arrival)
            if was_idle:
                self._groups.enqueue(share.group, waiting.arrival)

    def pop(self) -> J:
        """Remove and return the job that is served next.

        Raises:
            IndexError: no job waits.
        """
        group = self._groups.first()
        member = self._members[group].first()
        return self._serve(group, member, self._queues[group, member][0])

    def first(self) -> J:
        """Return the job that is served next.

        Raises:
            IndexError: no job waits.
        """
        group = self._groups.first()
        return self._queues[group, self._members[group].first()][0].job

    def pop_first(self, accepts: Callable[[J], bool]) -> J | None:
        """Remove and return the first job in the fair order that `accepts` takes, if there is one.

        The jobs before it wait on, and their owners keep their claims.
        """
        for group in self._groups.in_order():
            for member in self._members[group].in_order():
                for waiting in self._queues[group, member]:
                    if accepts(waiting.job):
                        return self._serve(group, member, waiting)
        return None

    def _serve(self, group: Hashable, member: Hashable, served: _Waiting[J]) -> J:
        members = self._members[group]
        jobs = self._queues[group, member]
        jobs.remove(served)
        self._forget(served.job)
        self._groups.serve(group, served.cost)
        members.serve(member, served.cost / served.share.weight)
        if jobs:
            members.enqueue(member, jobs[0].arrival)
        else:
            del self._queues[group, member]
        if members:
            self._groups.enqueue(group, members.arrival(members.first()))
        return served.job

    def remove(self, job: J) -> None:
        """Remove a waiting job, as if it had never come.

        Raises:
            KeyError: the job does not wait.
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
            members.replace_head(share.member, jobs[0].arrival)
        else:
            members.withdraw(share.member)
            del self._queues[key]
        if members and self._groups.arrival(share.group) == arrival:
            self._groups.replace_head(share.group, members.arrival(members.first()))
        elif not members:
            self._groups.withdraw(share.group)

    def _forget(self, job: J) -> Share:
        """Forget a job that no longer waits, and return its share."""
        share = self._shares.pop(job)
        for counter, key in (
            (self._of_members, share.member),
            (self._of_groups, share.group),
        ):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        return share
