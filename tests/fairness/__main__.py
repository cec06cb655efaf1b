"""`python -m tests.fairness`: a day of 10,000 members, both orders, in one run."""

from __future__ import annotations

import argparse

from .simulation import Fair, FirstComeFirstServed, Waiting, a_day, waits


def main() -> None:
    """Print the waiting times of single jobs and of those in bursts, under both orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=50)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--bursts", type=int, default=40)
    parser.add_argument("--burst-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asks = a_day(**vars(parser.parse_args()))
    print(f"{len(asks):,} jobs, {sum(ask.seconds for ask in asks) / 864:.0f} % of the day")
    for order in (FirstComeFirstServed(), Fair()):
        waited = waits(asks, order)
        for kind, is_burst in (("single", False), ("burst", True)):
            seconds = [waited[ask.number] for ask in asks if ask.is_burst is is_burst]
            print(f"{type(order).__name__:>20}  {kind:>6} jobs: {Waiting.of(seconds)}")


main()
