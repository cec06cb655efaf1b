"""`python -m tests.parity [--short] [--family NAME] [--write FILE]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from generation.models.families import FAMILIES

from . import __doc__ as description
from .checkpoints import chosen
from .measuring import measure, without_warnings
from .page import page, summary


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--short", action="store_true", help="two schedulers of one checkpoint of each family"
    )
    parser.add_argument(
        "--family", action="append", choices=[family.name for family in FAMILIES], metavar="NAME"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")
    options = parser.parse_args()
    return run(options.family, short=options.short, written=options.write)


def run(families: Sequence[str] | None, *, short: bool, written: Path | None) -> int:
    without_warnings()
    with tempfile.TemporaryDirectory(prefix="parity-") as parent:
        checkpoints = chosen(families=families, short=short)
        found = measure(checkpoints, Path(parent), short=short)
    for name, outcomes in found.items():
        print(f"{name}: {summary(outcomes)}")
        for outcome in outcomes:
            for fault in outcome.faults:
                print(f"  {outcome.cell}: {fault}")
    if written:
        written.write_text(page(found), "utf-8")
    return int(any(outcome.faults for outcomes in found.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
