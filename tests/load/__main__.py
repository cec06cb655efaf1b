"""The load that members can put on the bot: `python -m tests.load`, on a quiet machine.

The installed bot runs in its own process, in a Discord on loopback:

1. One member sends 300 /history while Discord takes uploads slowly.
2. One member uploads 60 files while Discord's file server is slow.
3. Fifty members send 100 interactions a second while the engine is busy.

The program prints the peak memory of the bot's process (not of the engine's) and the time until
interactions are acknowledged. The exit code is 1 if a figure misses its goal. The short form,
`tests/load/test_load.py`, checks counts instead of times.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from typing import Final

from PIL import Image

from .floods import (
    BYTES_GOAL,
    Memory,
    Steady,
    a_bot,
    flood_history,
    flood_uploads,
    interact,
    pictured,
)

SECONDS_GOAL: Final = 0.25


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
    """Run the measurements from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    sys.exit(not asyncio.run(measure(given.rate, given.seconds)))


if __name__ == "__main__":
    main()
