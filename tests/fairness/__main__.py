"""`python -m tests.fairness`: a day of 10,000 members, both ways, in one run."""

from __future__ import annotations

import argparse

from .simulation import Waiting, a_day, in_turns, one_by_one


def main() -> None:
    """Print the waiting times of single jobs and of those in bursts, both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=50)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--bursts", type=int, default=40)
    parser.add_argument("--burst-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asks = a_day(**vars(parser.parse_args()))
    print(f"{len(asks):,} jobs, {sum(ask.seconds for ask in asks) / 864:.0f} % of a day singly")
    for name, way in (("one by one, first come", one_by_one), ("in turns, together", in_turns)):
        served = way(asks)
        for kind, is_burst in (("single", False), ("burst", True)):
            chosen = [served[ask.number] for ask in asks if ask.is_burst is is_burst]
            print(f"{name:>22}  {kind:>6} jobs, to the first step: ", end="")
            print(Waiting.of(job.started for job in chosen))
            print(f"{'':>22}  {'':>6}       to the picture:    ", end="")
            print(Waiting.of(job.finished for job in chosen))


if __name__ == "__main__":
    main()
