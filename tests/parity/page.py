"""The page docs/parity.md, from the outcomes of all cells."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Final

import torch

from .cells import HEUN_FROM_AN_IMAGE, LMS_FROM_AN_IMAGE, MODES, Outcome
from .checkpoints import CHECKPOINTS

_LIBRARIES: Final = ("torch", "diffusers", "transformers", "numpy")
_NOTES: Final = {LMS_FROM_AN_IMAGE: "¹", HEUN_FROM_AN_IMAGE: "²"}
_INTRODUCTION: Final = """\
# Parity with diffusers

The engine's pictures compared with the pictures of diffusers' own pipelines. Both have the same
weights, seed and steps. The weights are random and the networks tiny, but each checkpoint has the
layout and all parts of its release. The command `python -m tests.parity --write docs/parity.md`
measured this page and wrote it.

The engine replaces some of the library's kernels, so that a picture does not depend on the pictures
made beside it. These kernels sum in another order, which can change the last bits. So each cell is
compared in five ways:

| the engine | compared with | has to be true |
| --- | --- | --- |
| our kernels | the pipeline, the library's kernels | at most 1 of 255 off, and 99.9 % equal |
| the library's kernels | the pipeline, the library's kernels | every value equal |
| our kernels | the pipeline, our kernels | every value equal |
| the picture alone | the picture among seven others at other steps | every value equal |
| this process | a fresh process | every value equal |

A cell says `equal` if every value of the first comparison is equal too. Otherwise it says the
largest difference of 255 and the share of equal values.
"""


def page(found: Mapping[str, Sequence[Outcome]]) -> str:
    """Return the page as Markdown; `found` has the outcomes by the names of checkpoints."""
    parts = [_INTRODUCTION, _machine()]
    parts += [_section(name, outcomes) for name, outcomes in found.items()]
    everything = [outcome for outcomes in found.values() for outcome in outcomes]
    notes = {outcome.cell.on_purpose for outcome in everything}
    differing = [f"- {mark} {note}" for note, mark in _NOTES.items() if note in notes]
    if differing:
        lines = [
            "## Cells that differ on purpose",
            "",
            *differing,
            "",
            "[schedulers.md](schedulers.md) lists all differences, also those outside this table.",
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one sentence about the cells of a checkpoint."""
    wrong = sum(bool(outcome.faults) for outcome in outcomes)
    largest = max(outcome.largest for outcome in outcomes)
    least = min(outcome.equal for outcome in outcomes)
    return (
        f"{len(outcomes)} cells, {wrong} wrong; the largest difference is {largest} of 255, and "
        f"the smallest share of equal values is {_percent(least)}."
    )


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return (
        f"Measured with {libraries}, Python {platform.python_version()}, float32, on "
        f"{torch.get_num_threads()} threads of this CPU: {_processor()}.\n"
    )


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _section(name: str, outcomes: Sequence[Outcome]) -> str:
    [family] = [one.family for one in CHECKPOINTS if one.name == name]
    modes = [mode for mode in MODES if any(outcome.cell.mode == mode for outcome in outcomes)]
    title = name if name == family else f"{name} (family {family})"
    lines = [f"## {title}", "", summary(outcomes), ""]
    lines += [f"| scheduler | spacing | {' | '.join(modes)} |", "| --- " * (2 + len(modes)) + "|"]
    for (scheduler, spacing), row in groupby(
        outcomes, key=lambda outcome: (outcome.cell.scheduler, outcome.cell.spacing)
    ):
        shown = {outcome.cell.mode: _shown(outcome) for outcome in row}
        kind = f"`{spacing}`" if spacing else "the model's"
        lines.append(f"| `{scheduler}` | {kind} | {' | '.join(shown[mode] for mode in modes)} |")
    return "\n".join(lines) + "\n"


def _shown(outcome: Outcome) -> str:
    note = _NOTES.get(outcome.cell.on_purpose or "", "")
    if outcome.faults:
        return f"**wrong**: {' '.join(outcome.faults)}{note}"
    if outcome.largest == 0:
        return f"equal{note}"
    return f"{outcome.largest}, {_percent(outcome.equal)}{note}"


def _percent(share: float) -> str:
    """Return a share in percent, rounded down: only what is all equal is 100 %."""
    return f"{int(share * 1e4) / 1e2:.2f} %"
