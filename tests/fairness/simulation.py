"""A day of a busy bot, simulated: fair turns against first come, first served.

Members ask at random over the day, most of them now and then, a few in bursts of hundreds of
jobs. No clock is involved: the day passes as fast as it can be computed. One engine uses the
product's own code for turns and sizes. The other serves one job after the other, as every other
bot does. Both take the same time for the same call. A few pictures are four times as large as the
others.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from generation.queue.fairness import Share
from generation.queue.turns import FairSizes, Turns
from generation.timing import Measured, Sizes

DAY = 86_400.0
_PIXELS = 512 * 512
# A GPU on which a call of eight rows takes about three times as long as one of two.
MEASURED = Measured(
    pixels=_PIXELS,
    step_seconds={1: 0.030, 2: 0.040, 4: 0.070, 8: 0.125},
    decode_seconds={1: 0.05},
)
_STEP = Sizes(MEASURED.step_seconds)
CAPACITY = MEASURED.rows * _PIXELS / 1e6
STEPS = (8, 20, 30, 30, 30, 50, 150)
_SIZES = (*[_PIXELS] * 24, 4 * _PIXELS)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Ask:
    """One job: when it comes, whose it is, and how many steps of how many rows it takes."""

    number: int
    at: float
    share: Share
    steps: int
    rows: int
    is_burst: bool
    pixels: int = _PIXELS
    model: str | None = None
    taken: int = 0
    turn_ends: int = 0
    alone: bool = False
    load: float = field(init=False)

    def __post_init__(self) -> None:
        self.load = self.rows * self.pixels / 1e6

    @property
    def seconds(self) -> float:
        """Return how long the engine takes for it alone."""
        return self.steps * _seconds_of_step([self]) + self.decoding

    @property
    def decoding(self) -> float:
        """Return how long its picture takes to be decoded."""
        return MEASURED.decode_seconds[1] * self.pixels / _PIXELS


@dataclass(frozen=True, slots=True)
class Served:
    """How long a job waited until its first step, and until its picture was there."""

    started: float
    finished: float


def a_day(
    *,
    members: int,
    servers: int,
    load: float,
    bursts: int,
    burst_size: int,
    seed: int,
    models: Sequence[str] = (),
) -> list[Ask]:
    """Return a day's jobs: `load` of an engine that serves singly, and bursts on top of that.

    Each job is for one of `models`, if there are any.
    """
    chance = random.Random(seed)
    mean = statistics.mean(
        Ask(0, 0.0, Share(), steps, 2, is_burst=False, pixels=pixels).seconds
        for steps in STEPS
        for pixels in _SIZES
    )
    home = [chance.randrange(servers) for _ in range(members)]
    moments = [
        (chance.uniform(0, DAY), chance.randrange(members), False)
        for _ in range(int(DAY * load / mean))
    ]
    for _ in range(bursts):
        start, member = chance.uniform(0, DAY * 0.9), chance.randrange(members)
        moments += [(start + 0.1 * index, member, True) for index in range(burst_size)]
    moments.sort()
    return [
        Ask(
            number,
            at,
            Share(group=home[member], member=member),
            chance.choice(STEPS),
            chance.choice((1, 2, 2, 2, 2)),
            is_burst,
            chance.choice(_SIZES),
            chance.choice(models) if models else None,
        )
        for number, (at, member, is_burst) in enumerate(moments)
    ]


def _seconds_of_step(asks: Iterable[Ask]) -> float:
    """Return what a step of jobs of one size takes, in one call; a large row is four."""
    return _STEP.time(sum(ask.rows * ask.pixels // _PIXELS for ask in asks))


@dataclass
class Memory:
    """The memory of a card, which holds models of `size` in all; loading one takes so many seconds.

    The models that were used least recently leave for another. A model in `sizes` takes so much of
    the memory, and any other model takes all of it.
    """

    seconds: float = 20.0
    loaded: list[str] = field(default_factory=list)
    loads: int = 0
    size: float = 1.0
    sizes: Mapping[str, float] = field(default_factory=dict)

    def use(self, model: str) -> float:
        """Return how many seconds it takes until a model is in memory."""
        seconds = 0.0
        if model in self.loaded:
            self.loaded.remove(model)
        else:
            while self.loaded and not self._fits(model):
                self.loaded.pop(0)
            self.loads += 1
            seconds = self.seconds
        self.loaded.append(model)
        return seconds

    def tell(self, turns: Turns[Ask]) -> None:
        """Tell which models are in memory, and which fit in beside them, as an engine does."""
        turns.loaded = frozenset(self.loaded)
        turns.beside = frozenset(filter(self._fits, self.sizes)) - turns.loaded

    def _fits(self, model: str) -> bool:
        return sum(self.sizes.get(name, self.size) for name in (model, *self.loaded)) <= self.size


_Kind = tuple[str | None, int]


def _of_one_size(asks: Iterable[Ask], sizes: FairSizes[_Kind]) -> list[Ask]:
    """Return the jobs of the model and size that take the next step."""
    of_size: dict[_Kind, list[Ask]] = {}
    for ask in asks:
        of_size.setdefault((ask.model, ask.pixels), []).append(ask)
    loads = {size: [ask.load for ask in these] for size, these in of_size.items()}
    return of_size[sizes.choose(loads)]


def _loading(ask: Ask, memory: Memory | None, turns: Turns[Ask]) -> float:
    """Return how many seconds it takes until the model of a job is in memory."""
    if memory is None or ask.model is None:
        return 0.0
    seconds = memory.use(ask.model)
    memory.tell(turns)
    return seconds


def in_turns(asks: Sequence[Ask], memory: Memory | None = None) -> dict[int, Served]:
    """Return the waiting times of each job, by number, with the product's turns.

    The running jobs of one model and size take a step together, and the sizes alternate. Between
    two steps, jobs end or wait for their next turn, and other jobs start. If a job needs a model
    that is not in `memory`, no job takes a step until the model is loaded.
    """
    turns: Turns[Ask] = Turns(CAPACITY)
    if memory is not None:
        memory.tell(turns)
    sizes: FairSizes[_Kind] = FairSizes()
    coming = deque(asks)
    started: dict[int, float] = {}
    served: dict[int, Served] = {}
    now = 0.0
    for ask in asks:
        ask.taken = 0
    while coming or turns.waiting or turns.running:
        if not turns.waiting and not turns.running:
            now = max(now, coming[0].at)
        while coming and coming[0].at <= now:
            turns.add(coming.popleft())
        # The engine loads a model when the jobs that need the model have started.
        for ask in list(iter(turns.start, None)):
            now += _loading(ask, memory, turns)
            started.setdefault(ask.number, now - ask.at)
        group = _of_one_size(turns.running, sizes)
        now += _loading(group[0], memory, turns) + _seconds_of_step(group)
        for ask in group:
            ask.taken += 1
            if ask.taken == ask.steps:
                now += ask.decoding
                served[ask.number] = Served(started[ask.number], now - ask.at)
                turns.remove(ask)
            else:
                turns.end_turn(ask)
    return served


def one_by_one(asks: Sequence[Ask]) -> dict[int, Served]:
    """Return the waiting times of each job, by number: first come, first served, one at a time."""
    coming = [(ask.at, ask.number, ask) for ask in asks]
    heapq.heapify(coming)
    served: dict[int, Served] = {}
    now = 0.0
    while coming:
        at, number, ask = heapq.heappop(coming)
        now = max(now, at)
        served[number] = Served(now - at, now + ask.seconds - at)
        now += ask.seconds
    return served


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
