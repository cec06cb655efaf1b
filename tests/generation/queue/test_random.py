"""Random actions, failures and losses: each job ends once, as it should."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.errors import (
    EngineFailed,
    SetAside,
)
from generation.queue import supervisor
from generation.queue.tickets import JobCancelled, Ticket
from generation.values.events import Progress, Waiting

from ..examples import a_request
from ..queues import (
    PATIENCE,
    EventLog,
    Stage,
    a_stage,
    frail,
)

Action = tuple[str, int]


actions = st.lists(
    st.tuples(st.just("submit"), st.integers(1, 3))
    | st.tuples(st.just("submit broken"), st.integers(1, 2))
    | st.tuples(st.just("cancel"), st.integers(0, 12))
    | st.tuples(st.just("step"), st.just(1)),
    max_size=25,
)


class Model:
    """What a queue has to do, told apart from how it does it.

    After each action it waits until the engine is at its gate again, or has nothing to do.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tickets: list[Ticket] = []
        self.endings: dict[int, str] = {}
        self.ends: list[int] = []
        self.waiting: deque[int] = deque()
        self.running: int | None = None
        self.begun: list[int] = []

    async def submit(self, steps: int) -> None:
        number = len(self.tickets)
        ticket = self.stage.submit(number, steps=steps)
        ticket.images.add_done_callback(lambda _: self.ends.append(number))
        self.tickets.append(ticket)
        self.waiting.append(number)
        if self.running is None:
            await self._next()

    async def submit_broken(self, step: int) -> None:
        self.stage.engine.failures["step", len(self.tickets)] = RuntimeError("broken")
        await self.submit(step)

    async def cancel(self, number: int) -> None:
        known = number in self.waiting or number == self.running
        assert self.stage.queue.cancel(number) is known
        if number in self.waiting:
            self.waiting.remove(number)
            self.endings[number] = "JobCancelled"
        elif number == self.running:
            self.stage.engine.allow()
            await self._end(number, "JobCancelled")

    async def step(self, _: int) -> None:
        if self.running is None:
            return
        number = self.running
        told = self.stage.told[number]
        before = told.events[-1]
        assert isinstance(before, Progress)
        self.stage.engine.allow()
        if ("step", number) in self.stage.engine.failures:
            await self._end(number, "EngineFailed")
            return
        await told.until(Progress(before.step + 1, before.steps))
        if before.step + 1 == before.steps:
            await self._end(number, "pictures")
        else:
            await self.stage.at_gate()

    async def _end(self, number: int, ending: str) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([self.tickets[number].images])
        self.endings[number] = ending
        await self._next()

    async def _next(self) -> None:
        self.running = self.waiting.popleft() if self.waiting else None
        if self.running is not None:
            self.begun.append(self.running)
            request = self.tickets[self.running].request
            await self.stage.told[self.running].until(Progress(0, request.steps))
            await self.stage.at_gate()

    def check(self) -> None:
        assert self.stage.queue.waiting == len(self.waiting)
        for position, number in enumerate(self.waiting, start=1):
            assert self.stage.told[number].events[-1] == Waiting(position)
        for number, ticket in enumerate(self.tickets):
            assert ticket.images.done() is (number in self.endings)


def ending_of(ticket: Ticket) -> str:
    error = ticket.images.exception()
    return "pictures" if error is None else type(error).__name__


async def act(plan: list[Action]) -> None:
    async with a_stage() as stage:
        model = Model(stage)
        acts: dict[str, Callable[[int], Any]] = {
            "submit": model.submit,
            "submit broken": model.submit_broken,
            "cancel": model.cancel,
            "step": model.step,
        }
        for name, value in plan:
            await acts[name](value)
            # Places are told on the next turn of the event loop.
            await asyncio.sleep(0)
            model.check()
    if ("step", model.running) in stage.engine.failures:
        model.endings[model.running] = "EngineFailed"
    unfinished = dict.fromkeys(range(len(model.tickets)), "QueueClosed")
    found = dict(enumerate(map(ending_of, model.tickets)))
    assert found == unfinished | model.endings
    await asyncio.sleep(0)
    assert sorted(model.ends) == list(range(len(model.tickets)))
    assert stage.engine.begun == model.begun
    assert stage.engine.overlaps == 0
    assert len(stage.engine.threads) <= 1


@settings(max_examples=60)
@given(actions)
def test_each_job_ends_once_and_in_order(plan: list[Action]) -> None:
    logging.disable(logging.ERROR)
    try:
        # An engine that fails at all it is given is replaced: see test_losses.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervisor, "JOB_FAILURES", len(plan) + 1)
            asyncio.run(act(plan))
    finally:
        logging.disable(logging.NOTSET)


Act = tuple[str, int]


acts = st.lists(
    st.tuples(st.just("submit"), st.integers(1, 45))
    | st.tuples(st.just("submit"), st.integers(1, 3))
    | st.tuples(st.just("submit broken"), st.integers(1, 5))
    | st.tuples(st.just("cancel"), st.integers(0, 15))
    | st.tuples(st.just("lose the engine"), st.just(0))
    | st.tuples(st.just("wait"), st.integers(1, 5)),
    max_size=30,
)


@dataclass
class Trouble:
    """Says which steps raise an error, and which lose the engine."""

    broken: set[int] = field(default_factory=set)
    to_lose: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    losses: Counter[int] = field(default_factory=Counter)

    def __call__(self, where: str, seeds: list[int]) -> bool:
        if where != "step":
            return False
        if any(seed // 10 in self.broken for seed in seeds):
            raise RuntimeError("broken")
        is_lost = self.to_lose.acquire(blocking=False)
        if is_lost:
            self.losses.update({seed // 10 for seed in seeds})
        return is_lost


async def play(plan: list[Act]) -> None:
    """Do what the plan says, wait for all jobs, and check how each has ended."""
    trouble = Trouble()
    async with frail(trouble) as (stage, _):
        tickets: list[Ticket] = []
        cancelled: set[int] = set()
        ends: Counter[int] = Counter()
        for act, value in plan:
            if act.startswith("submit"):
                number = len(tickets)
                if act == "submit broken":
                    trouble.broken.add(number)
                count, width = 1 + value % 3, 64 + 64 * (value % 2)
                request = a_request(seed=10 * number, steps=value, count=count, width=width)
                tickets.append(stage.queue.submit(number, request, EventLog()))
                tickets[-1].images.add_done_callback(lambda _, n=number: ends.update([n]))
            elif act == "cancel" and stage.queue.cancel(value):
                cancelled.add(value)
            elif act == "lose the engine":
                trouble.to_lose.release()
            elif act == "wait":
                await asyncio.sleep(0.001 * value)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(ticket.images for ticket in tickets), return_exceptions=True)
        async with asyncio.timeout(PATIENCE):
            while stage.queue._turns.running:  # noqa: ASYNC110 -- the queue tells nobody
                await asyncio.sleep(0.001)
        assert stage.queue.waiting == 0
        for number, ticket in enumerate(tickets):
            assert_ended(
                ticket,
                cancelled=number in cancelled,
                broken=number in trouble.broken,
                losses=trouble.losses[number],
            )
        assert ends == Counter(range(len(tickets)))


def assert_ended(ticket: Ticket, *, cancelled: bool, broken: bool, losses: int) -> None:
    error = ticket.images.exception()
    if cancelled:
        assert isinstance(error, JobCancelled)
    elif broken:
        assert isinstance(error, EngineFailed)
    elif error is not None:
        # It was the only one in a call when the engine was lost, twice: it looks guilty.
        assert isinstance(error, SetAside)
        assert losses >= 2
    else:
        seeds = [image.recipe.seed for image in ticket.images.result()]
        assert seeds == [ticket.request.seed + index for index in range(ticket.request.count)]


@settings(max_examples=40)
@given(acts)
def test_each_job_ends_once_with_its_own_pictures_or_an_error(plan: list[Act]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # An engine that is given up makes no more pictures: see test_losses.
        patch.setattr(supervisor, "ENGINE_LOSSES", 1_000)
        patch.setattr(supervisor, "JOBS_SET_ASIDE", 1_000)
        asyncio.run(play(plan))
