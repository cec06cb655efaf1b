"""A day of a busy bot, simulated: fair order against first come, first served.

Members ask at random over the day, most of them now and then, a few in bursts of hundreds of
jobs. One engine serves them one after the other at a fixed speed. No clock is involved: the
day passes as fast as the order can be computed.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from generation.fairness import FairOrder, Share

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One job: when it comes, whose it is, and how many seconds of the engine it takes."""

    number: int
    at: float
    share: Share
    seconds: float
    is_burst: bool


class Order(Protocol):
    """Decides which of the waiting jobs is next."""

    def add(self, ask: Ask) -> None: ...

    def pop(self) -> Ask: ...

    def __len__(self) -> int: ...


class Fair:
    """The order of the product."""

    def __init__(self) -> None:
        self._order: FairOrder[Ask] = FairOrder()

    def add(self, ask: Ask) -> None:
        self._order.add(ask, ask.share, ask.seconds)

    def pop(self) -> Ask:
        return self._order.pop()

    def __len__(self) -> int:
        return len(self._order)


class FirstComeFirstServed:
    """The order of every other bot."""

    def __init__(self) -> None:
        self._asks: deque[Ask] = deque()

    def add(self, ask: Ask) -> None:
        self._asks.append(ask)

    def pop(self) -> Ask:
        return self._asks.popleft()

    def __len__(self) -> int:
        return len(self._asks)


def a_day(
    *, members: int, servers: int, load: float, bursts: int, burst_size: int, seed: int
) -> list[Ask]:
    """Return a day's jobs: `load` of the engine by single jobs, and bursts on top of that."""
    chance = random.Random(seed)
    mean_seconds = 2.0
    home = [chance.randrange(servers) for _ in range(members)]
    moments = [
        (chance.uniform(0, DAY), chance.randrange(members), False)
        for _ in range(int(DAY * load / mean_seconds))
    ]
    for _ in range(bursts):
        start, member = chance.uniform(0, DAY * 0.9), chance.randrange(members)
        moments += [(start + 0.1 * index, member, True) for index in range(burst_size)]
    moments.sort()
    return [
        Ask(
            number=number,
            at=at,
            share=Share(group=home[member], member=member),
            seconds=mean_seconds * chance.choice((0.25, 0.5, 1.0, 1.0, 1.0, 2.25)),
            is_burst=is_burst,
        )
        for number, (at, member, is_burst) in enumerate(moments)
    ]


def waits(asks: Sequence[Ask], order: Order) -> dict[int, float]:
    """Return for each job, by number, how many seconds it waits before the engine takes it up."""
    coming = [(ask.at, ask.number, ask) for ask in asks]
    heapq.heapify(coming)
    waited: dict[int, float] = {}
    now = 0.0
    while coming or order:
        if not order:
            now = max(now, coming[0][0])
        while coming and coming[0][0] <= now:
            order.add(heapq.heappop(coming)[2])
        served = order.pop()
        waited[served.number] = now - served.at
        now += served.seconds
    return waited


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waiting times of some jobs, in seconds."""

    median: float
    p95: float
    worst: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Waiting:
        """Return the figures of `seconds`."""
        ranked = sorted(seconds)
        return cls(statistics.median(ranked), ranked[int(0.95 * (len(ranked) - 1))], ranked[-1])

    def __str__(self) -> str:
        return f"median {self.median:8.1f} s   p95 {self.p95:8.1f} s   worst {self.worst:8.1f} s"
