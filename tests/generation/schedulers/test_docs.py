"""The table of schedulers that people read says what the registry says."""

from __future__ import annotations

from pathlib import Path

from generation.schedulers.registry import REGISTRY, Scheduler
from generation.values.request import SPACINGS

TABLE = Path(__file__).parents[3] / "docs/schedulers.md"


def cells(name: str, row: Scheduler) -> list[str]:
    spacings = row.methods["diffusion"].spacings
    known = ", ".join(f"`{spacing}`" for spacing in spacings) or "none"
    known = "all" if set(spacings) == set(SPACINGS) else known
    if "flow" in row.methods:
        missing = set(SPACINGS) - set(row.methods["flow"].spacings)
        known += "; flow: not " + ", ".join(f"`{spacing}`" for spacing in missing)
    return [
        f"`{name}`",
        row.label,
        "noise, v, flow" if "flow" in row.methods else "noise, v",
        known,
        str(row.calls),
        "yes" if row.draws_noise else "no",
        str(row.most_steps),
    ]


def test_the_table_has_a_row_for_each_scheduler_with_what_it_does() -> None:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    shown = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| `") and line.count("|") == 8
    ]
    assert shown == [cells(name, row) for name, row in REGISTRY.items()]
