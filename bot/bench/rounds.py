"""Runs the contenders in turns, each time in a fresh process, and takes medians of all rounds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from generation.errors import GenerationError

from .contender import Assignment, Report

# `imagine-bot` sets this for its own engine. The pipeline must run without it.
_OUR_SETTINGS: Final = {"GOMP_SPINCOUNT": "2000"}
_ERROR_LENGTH: Final = 300


class BenchFailed(GenerationError):
    """A contender could not be measured."""


class Unfair(BenchFailed):
    """A contender did not compute in the thread that loaded it, so its times are too long."""

    def __init__(self, report: Report) -> None:
        super().__init__(
            f"The contender {report.contender!r} was loaded in one thread and did "
            f"{100 * (1 - (report.own_share or 0)):.0f} % of its work in others, so the comparison "
            "would not be fair; report this fault of the benchmark."
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the results of fresh processes, and their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Turn:
    """One process of a contender: its report, and how busy the machine was.

    `others` is the share of the processors that other programs took meanwhile. `load` is the
    system's load average of a minute at the start.
    """

    report: Report
    load: float
    others: float


class Rounds:
    """The turns of all contenders, in order."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def of(self, contender: str) -> list[Report]:
        """Return the reports of one contender, one for each round."""
        return [turn.report for turn in self.turns if turn.report.contender == contender]

    def alone(self, contender: str) -> Spread:
        """Return the seconds for one picture alone: the median of each process."""
        return Spread.of([statistics.median(one.alone) for one in self.of(contender)])

    def users(self, contender: str) -> Spread:
        """Return the seconds until the last of the eight users got their picture."""
        return Spread.of([max(one.ends) for one in self.of(contender)])

    def alone_ratio(self, ours: str, theirs: str) -> Spread:
        """Return our time for one picture divided by theirs, for each round."""
        return self._ratio(ours, theirs, lambda report: statistics.median(report.alone))

    def speedup(self, ours: str, theirs: str) -> Spread:
        """Return their time for the eight users divided by ours, for each round."""
        return self._ratio(theirs, ours, lambda report: max(report.ends))

    def wait_ratio(self, ours: str, theirs: str) -> Spread:
        """Return our mean waiting time of the eight users divided by theirs, for each round."""
        return self._ratio(ours, theirs, lambda report: statistics.fmean(report.ends))

    def _ratio(self, upper: str, lower: str, of: Callable[[Report], float]) -> Spread:
        pairs = zip(self.of(upper), self.of(lower), strict=True)
        return Spread.of([of(one) / of(other) for one, other in pairs])


def take_turns(
    contenders: Mapping[str, Assignment], rounds: int, *, pictures: Path | None = None
) -> Rounds:
    """Measure every contender `rounds` times, in turns, each time in a fresh process.

    Every second round has the reverse order, so that no contender always follows the same one.
    Pictures that an assignment keeps are written to `pictures`, in the first round only.

    Raises:
        Unfair: a contender did not compute in the thread that loaded it.
        BenchFailed: a contender's process failed.
    """
    taken = Rounds()
    for number in range(rounds):
        order = list(contenders)[:: -1 if number % 2 else 1]
        turns = {
            name: take_turn(contenders[name], pictures if number == 0 else None) for name in order
        }
        taken.turns.extend(turns.values())
    return taken


def take_turn(
    assignment: Assignment, pictures: Path | None = None, *, module: str = "bot.bench.contender"
) -> Turn:
    """Run `assignment` in a fresh process of `module`.

    Raises:
        Unfair: the contender did not compute in the thread that loaded it.
        BenchFailed: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="imagine-bot-bench-") as parent:
        folder = Path(parent)
        wanted = asdict(assignment) | {
            "keeps_pictures": assignment.keeps_pictures and pictures is not None
        }
        (folder / "assignment.json").write_text(json.dumps(wanted), "utf-8")
        load, watch = os.getloadavg()[0], _Others()
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", module, str(folder)],
            env=_environment(assignment.contender),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:_ERROR_LENGTH]
            raise BenchFailed(f"The contender {assignment.contender!r} failed: {reason}")
        report = Report(**json.loads((folder / "report.json").read_text("utf-8")))
        if wanted["keeps_pictures"] and pictures is not None:
            for kept in folder.glob("*.npy"):
                kept.replace(pictures / f"{assignment.contender} {kept.name}")
        others = watch.share()
    check_fair(report)
    return Turn(report, load, others)


def check_fair(report: Report) -> None:
    """Check that the thread that loaded a contender did its part of the computing.

    Of n threads each does an nth. A thread that only waits for another does almost nothing.

    Raises:
        Unfair: it did not do its part.
    """
    if report.own_share is not None and report.own_share < 0.5 / max(report.threads, 1):
        raise Unfair(report)


def _environment(contender: str) -> dict[str, str]:
    inherited = dict(os.environ)
    if contender.startswith("pipeline"):
        for name, value in _OUR_SETTINGS.items():
            if inherited.get(name) == value:
                del inherited[name]
    return inherited


class _Others:
    """The share of the processors that other programs take, since this object was made.

    The measured process has to have ended: the system counts children only then.
    """

    def __init__(self) -> None:
        self._busy, self._all = _processors()
        self._ours = _taken()

    def share(self) -> float:
        """Return the share of all processors, from 0 to 1."""
        busy, total = _processors()
        ours = _taken() - self._ours
        return max(0.0, busy - self._busy - ours) / max(total - self._all, 1e-9)


def _processors() -> tuple[float, float]:
    times: Any = psutil.cpu_times()
    total = sum(times)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _taken() -> float:
    taken = os.times()
    return taken.user + taken.system + taken.children_user + taken.children_system
