"""The supervisor as a table: what happened, and what is done."""

from __future__ import annotations

import gc
import weakref

import pytest

from generation.queue.supervisor import (
    ENGINE_LOSSES,
    JOB_FAILURES,
    JOBS_SET_ASIDE,
    Decision,
    EngineAction,
    Supervisor,
)


class Job:
    def __init__(self, name: str) -> None:
        self.name = name


class History:
    """Tells a supervisor what happened, in words, and puts its decisions into words.

    "fail ab | c": a call for the jobs a and b raised an error, while c also ran on the engine.
    "lose a": the engine was lost in a call for job a. "made": a picture was made.
    """

    def __init__(self) -> None:
        self.supervisor: Supervisor[Job] = Supervisor()
        self._jobs: dict[str, Job] = {}

    def jobs(self, names: str) -> list[Job]:
        return [self._jobs.setdefault(name, Job(name)) for name in names.strip()]

    def happens(self, event: str) -> str:
        what, _, names = event.partition(" ")
        if what == "made":
            self.supervisor.picture_made()
            return ""
        in_call, _, others = names.partition("|")
        decide = {"fail": self.supervisor.call_failed, "lose": self.supervisor.engine_lost}[what]
        return said(decide(self.jobs(in_call), self.jobs(others)))


def said(decision: Decision[Job]) -> str:
    parts = {
        "fail": decision.fail,
        "set aside": decision.set_aside,
        "alone": decision.run_alone,
        "again": decision.run_again,
    }
    words = [f"{part} {''.join(job.name for job in jobs)}" for part, jobs in parts.items() if jobs]
    if decision.engine is not EngineAction.KEEP:
        words.append(
            {EngineAction.REPLACE: "replace", EngineAction.GIVE_UP: "give up"}[decision.engine]
        )
    return ", ".join(words)


TABLE: dict[str, list[tuple[str, str]]] = {
    "a job that fails alone ends": [("fail a | bc", "fail a")],
    "jobs that fail together run alone, and then only the guilty one ends": [
        ("fail abc | d", "alone abc"),
        ("made", ""),
        ("fail b", "fail b"),
        ("made", ""),
    ],
    "jobs that fail together count for nothing": [
        *[("fail ab", "alone ab")] * (2 * JOB_FAILURES),
        ("fail c", "fail c"),
    ],
    "an engine on which several jobs in a row fail is replaced": [
        ("fail a", "fail a"),
        ("fail b", "fail b"),
        ("fail c | d", "alone c, again d, replace"),
        ("fail c", "fail c"),
    ],
    "a picture between them shows that the jobs are the cause": [
        *[("fail a", "fail a"), ("fail b", "fail b"), ("made", "")] * 3,
    ],
    "jobs of a lost engine start again, the suspects alone": [
        ("lose ab | cd", "alone ab, again cd, replace"),
    ],
    "an engine that is lost without a job is replaced": [("lose", "replace")],
    "a job that loses the engine twice, the second time alone, is set aside": [
        ("lose ab | c", "alone ab, again c, replace"),
        ("lose a | c", "set aside a, again c, replace"),
    ],
    "a job that loses the engine alone is given a second try": [
        ("lose a", "alone a, replace"),
        ("lose a", "set aside a, replace"),
    ],
    "two jobs that lose the engine together are not set aside, however often": [
        ("lose ab", "alone ab, replace"),
        ("made", ""),
        ("lose ab", "alone ab, replace"),
        ("made", ""),
        ("lose ab", "alone ab, replace"),
    ],
    "a picture of another job does not clear a suspect": [
        ("lose ab", "alone ab, replace"),
        ("made", ""),
        ("lose b", "set aside b, replace"),
    ],
    "a failure too many counts as a loss for its job": [
        ("lose a", "alone a, replace"),
        ("fail b", "fail b"),
        ("fail c", "fail c"),
        ("fail a", "set aside a, replace"),
    ],
    "engines that are lost with ever other jobs are given up": [
        ("lose a | z", "alone a, again z, replace"),
        ("lose b | z", "alone b, again z, replace"),
        ("lose c | z", "alone c, again z, give up"),
    ],
    "a picture between two losses starts the count of engines again": [
        *[("lose a", "alone a, replace"), ("lose b", "alone b, replace"), ("made", "")],
        *[("lose c", "alone c, replace"), ("lose d", "alone d, replace"), ("made", "")],
    ],
    "a guilty job starts the count of engines again": [
        ("lose ab", "alone ab, replace"),
        ("lose a", "set aside a, replace"),
        ("lose cd", "alone cd, replace"),
        ("lose ef", "alone ef, replace"),
        ("lose gh", "alone gh, give up"),
    ],
    "if every job loses the engine, the engine is the cause": [
        ("lose abcde", "alone abcde, replace"),
        *[(f"lose {job}", f"set aside {job}, replace") for job in "abcd"],
        ("lose e", "set aside e, give up"),
    ],
    "a picture between them shows that the engine is not the cause": [
        ("lose abcdef", "alone abcdef, replace"),
        *[(f"lose {job}", f"set aside {job}, replace") for job in "abcd"],
        ("made", ""),
        *[(f"lose {job}", f"set aside {job}, replace") for job in "ef"],
    ],
}


@pytest.mark.parametrize("rows", TABLE.values(), ids=TABLE.keys())
def test_what_happened_and_what_is_done(rows: list[tuple[str, str]]) -> None:
    history = History()
    assert [(event, history.happens(event)) for event, _ in rows] == rows


def test_the_table_is_written_for_these_limits() -> None:
    assert (JOB_FAILURES, ENGINE_LOSSES, JOBS_SET_ASIDE) == (3, 3, 5)


def test_a_job_that_is_gone_is_not_remembered() -> None:
    supervisor: Supervisor[Job] = Supervisor()
    job = Job("a")
    supervisor.engine_lost([job], [])
    known = weakref.ref(job)
    del job
    gc.collect()
    assert known() is None
