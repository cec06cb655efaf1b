"""`python -m tests.fuzz models --minutes 10`: change input at random until a case fails.

Every case has a number; `--case N` repeats a case.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import signal
import sys
import time
from typing import Any, Final

_CASE_SECONDS: Final = 30
_MEMORY: Final = 8 * 2**30


def _target(name: str) -> Any:
    if name == "models":
        from .models import Models  # noqa: PLC0415

        return Models()
    if name in ("pictures", "png"):
        from .pictures import Pictures  # noqa: PLC0415

        return Pictures.uploads() if name == "pictures" else Pictures.recipes()
    raise SystemExit(f"There is no target {name!r}; use models, pictures or png.")


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {_CASE_SECONDS} s")


def main() -> int:
    """Run cases until one fails or the time is over; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--start", type=int, default=0, help="the first case")
    parser.add_argument("--case", type=int, help="only this case")
    options = parser.parse_args()
    target = _target(options.target)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    end = time.monotonic() + 60 * options.minutes
    numbers = itertools.count(options.start) if options.case is None else [options.case]
    refused = done = 0
    try:
        for number in numbers:
            signal.alarm(_CASE_SECONDS)
            try:
                refused += bool(target.attempt(random.Random(number)))
            except BaseException:
                print(f"{options.target}: case {number} failed", file=sys.stderr)
                raise
            finally:
                signal.alarm(0)
            done += 1
            if time.monotonic() > end:
                break
    finally:
        target.close()
    print(f"{options.target}: {done} cases, {refused} refused in a sentence, none failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
