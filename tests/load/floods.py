"""Floods of commands, uploads and interactions against the installed bot."""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from ..rig import Asked, BotProcess, Discord, MessageView, NeverHappened
from ..running import finished, imagine_bot

BYTES_GOAL: Final = 250 * 10**6
_SAMPLED_SECONDS: Final = 0.05
_SETTLED_SECONDS: Final = 2.0
_PATIENCE: Final = 30.0
MEMBER_LIMIT: Final = 10


@dataclass
class Memory:
    """The most bytes that a process had in memory while it was watched."""

    most: int = 0

    @asynccontextmanager
    async def watching(self, pid: int) -> AsyncIterator[None]:
        """Watch a process until the end."""
        task = asyncio.create_task(self._watch(psutil.Process(pid)))
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self, process: psutil.Process) -> None:
        while True:
            self.most = max(self.most, process.memory_info().rss)
            await asyncio.sleep(_SAMPLED_SECONDS)


async def acknowledged_in(asking: Awaitable[Asked]) -> float:
    """Return how many seconds an interaction takes to be acknowledged, infinity if too long."""
    asked = await asking
    sent = time.monotonic()
    while not asked.acknowledged:
        if time.monotonic() - sent > _PATIENCE:
            return float("inf")
        await asyncio.sleep(0.005)
    return time.monotonic() - sent


async def suggested_in(world: Discord, who: str, typed: str) -> float:
    """Return how many seconds suggestions take to come, infinity if too long."""
    sent = time.monotonic()
    try:
        await world.autocomplete("history", "search", typed, who=who)
    except NeverHappened:
        return float("inf")
    return time.monotonic() - sent


async def pictured(world: Discord, who: str, *, size: int, count: int) -> MessageView:
    """Have somebody ask for pictures that compress badly, and return the message with them."""
    asked = await world.slash(
        "imagine",
        who=who,
        prompt="owl",
        width=size,
        height=size,
        count=count,
        steps=1,
        guidance_scale=30.0,
    )
    await world.until(
        lambda: asked.message and finished(asked.message), within=300, what="the first pictures"
    )
    assert asked.message is not None
    return asked.message


@dataclass
class HistoryFlood:
    """What came of a flood of /history: answers that are held, and refusals."""

    uploads: int
    refused: int
    shown: int
    another: float


async def flood_history(
    world: Discord, who: str, other: str, *, commands: int, size: int
) -> HistoryFlood:
    """Have one member ask for the same pictures again and again while uploads are slow."""
    await pictured(world, who, size=size, count=4)
    before = len(world.asked("PATCH", "/webhooks/*"))
    hold = world.hold("PATCH", "/webhooks/*", times=100_000)
    asked = [await world.slash("history", who=who, search="owl") for _ in range(commands)]
    another = await acknowledged_in(world.slash("history", who=other))
    await asyncio.sleep(_SETTLED_SECONDS)
    uploads = hold.hits
    hold.release()
    await asyncio.sleep(_SETTLED_SECONDS)
    return HistoryFlood(
        uploads=uploads,
        refused=sum("still working on" in one.text for one in asked),
        shown=len(world.asked("PATCH", "/webhooks/*")) - before,
        another=another,
    )


@dataclass
class UploadFlood:
    """What came of a flood of uploads: those that have a place, and those that were refused."""

    refused: int
    jobs: int
    fetched: int
    another: float


async def flood_uploads(
    world: Discord, who: str, other: str, file: bytes, *, uploads: int
) -> UploadFlood:
    """Have one member upload many files while the server that has them is slow."""
    hold = world.hold("GET", "/cdn/*", times=100_000)
    asked = [
        await world.slash("vary", who=who, attachment=("a.png", file), prompt="red apple")
        for _ in range(uploads)
    ]
    another = await acknowledged_in(world.slash("history", who=other))

    def refused() -> int:
        return sum("are waiting already" in one.text for one in asked)

    # Whoever has a place reads nothing of it yet, so nothing else is answered.
    await world.until(
        lambda: refused() >= uploads - MEMBER_LIMIT, within=_PATIENCE, what="the refusals"
    )
    early, fetched = refused(), hold.hits
    hold.release()
    await world.until(
        lambda: sum(_is_job(one) for one in asked) >= uploads - early, within=120, what="the jobs"
    )
    return UploadFlood(early, sum(map(_is_job, asked)), fetched, another)


def _is_job(asked: Asked) -> bool:
    return asked.message is not None and "job" in asked.message.content


@dataclass
class Steady:
    """How long it took to acknowledge many interactions of many members, in seconds."""

    seconds: list[float] = field(default_factory=list)

    def quantile(self, part: float) -> float:
        """Return the time within which this part of them was acknowledged."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def interact(
    world: Discord, people: list[str], pictures: MessageView, *, rate: float, seconds: float
) -> Steady:
    """Have these people send `rate` interactions a second of all kinds."""
    result, tasks = Steady(), []
    mix = _mix(world, people, pictures)
    began = time.monotonic()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.ensure_future(next(mix)))
    result.seconds = list(await asyncio.gather(*tasks))
    return result


def _mix(world: Discord, people: list[str], pictures: MessageView) -> Iterator[Awaitable[float]]:
    """Yield what people do: new pictures, buttons, and mostly looking for old ones."""
    ids = [button.custom_id or "" for button in pictures.buttons]
    again = next(one for one in ids if one.startswith("rerun"))
    draw = random.Random(7)
    for number in itertools.count():
        who = people[number % len(people)]
        kind = draw.choice(["imagine", "button", "history", "history", "type", "type", "type"])
        if kind == "type":
            yield suggested_in(world, who, "red apple"[: draw.randint(0, 9)])
        elif kind == "imagine":
            yield acknowledged_in(world.slash("imagine", who=who, prompt="red apple"))
        elif kind == "button":
            yield acknowledged_in(world.click(pictures, again, who=who))
        else:
            yield acknowledged_in(world.slash("history", who=who, search="app"))


@asynccontextmanager
async def a_bot(people: list[str], **settings: object) -> AsyncIterator[tuple[Discord, BotProcess]]:
    """Start a bot in a Discord with these people, and `alice` and `bob`."""
    with tempfile.TemporaryDirectory(prefix="imagine-bot-load-") as folder:
        async with Discord.start() as world:
            for name in people:
                world.join(name)
            data = Path(folder) / "data"
            async with imagine_bot(
                world, data, max_size=512, member_limit=MEMBER_LIMIT, **settings
            ) as bot:
                await bot.ready()
                yield world, bot
                bot.kill()
