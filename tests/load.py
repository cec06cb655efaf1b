"""What people can load the bot with: `python -m tests.load`, on a machine that is quiet.

The installed bot runs in its own process, in a Discord on loopback:

1. One member sends 300 /history while Discord takes uploads slowly.
2. One member uploads 60 files while Discord's file server is slow.
3. Fifty members send 100 interactions a second while the engine is busy.

It prints the most memory that the bot's process had (not the engine's), how long interactions
took to be acknowledged, and ends with 1 if a figure misses its goal. `tests/test_load.py` is the
short form, which looks at what is held and refused and at no clock.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from PIL import Image

from .rig import Asked, BotProcess, Discord, MessageView, NeverHappened
from .running import finished, imagine_bot

SECONDS_GOAL: Final = 0.25
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


def _say(what: str, memory: Memory, seconds: list[float]) -> bool:
    ordered = Steady(seconds)
    late = ordered.quantile(0.99)
    print(
        f"{what}: acknowledged within {ordered.quantile(0.5) * 1e3:.0f} ms (p50), "
        f"{late * 1e3:.0f} ms (p99); {memory.most / 1e6:.0f} MB at most"
    )
    return late <= SECONDS_GOAL and memory.most <= BYTES_GOAL


async def measure(rate: float, seconds: float) -> bool:
    """Print all figures; return whether they meet their goals."""
    people = [f"member{number}" for number in range(50)]
    file = io.BytesIO()
    Image.new("RGB", (2_000, 1_500), "red").save(file, "PNG")
    good = []
    async with a_bot(["carol"], steps=20) as (world, bot):
        memory = Memory()
        async with memory.watching(bot.pid):
            history = await flood_history(world, "alice", "bob", commands=300, size=512)
        print(history)
        good.append(_say("300 /history of one member", memory, [history.another]))
        memory = Memory()
        async with memory.watching(bot.pid):
            files = await flood_uploads(world, "carol", "bob", file.getvalue(), uploads=60)
        print(files)
        good.append(_say("60 uploads of one member", memory, [files.another]))
    async with a_bot(people, steps=50) as (world, bot):
        shown = await pictured(world, "alice", size=128, count=1)
        memory = Memory()
        async with memory.watching(bot.pid):
            steady = await interact(world, people, shown, rate=rate, seconds=seconds)
        good.append(_say(f"{rate:g} interactions a second", memory, steady.seconds))
    return all(good)


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    sys.exit(not asyncio.run(measure(given.rate, given.seconds)))


if __name__ == "__main__":
    main()
