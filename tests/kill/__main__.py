"""`python -m tests.kill --kills N --seed S [--random]`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from random import Random

from ..running import reference
from . import INSTANTS, Figures, Instant, Killing
from .instants import at_random
from .verdict import judge


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="all kills come at random moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        figures = asyncio.run(
            _run(data, options.kills, options.seed, has_chosen=not options.random)
        )
    print(figures, *figures.doubles, sep="\n")
    return int(figures.lost + figures.doubled + figures.changed > 0)


async def _run(data: Path, kills: int, seed: int, *, has_chosen: bool) -> Figures:
    async with Killing.start(data, seed=seed) as run:
        for instant in _order(Random(seed)) if has_chosen else repeat(at_random):
            print(f"{run.kills + 1:>3}: {instant.__name__}", file=sys.stderr, flush=True)
            await run.go_through(instant)
            if run.kills >= kills:
                break
        await run.finish()
        with reference() as right:
            return judge(run, right)


def _order(random: Random) -> Iterator[Instant]:
    """Yield the chosen instants in random orders, a random moment before each of them."""
    while True:
        for instant in random.sample(INSTANTS, len(INSTANTS)):
            yield at_random
            yield instant


sys.exit(main())
