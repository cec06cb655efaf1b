"""The short form of `python -m tests.kill`: the bot dies at the instants that hurt most."""

from __future__ import annotations

from pathlib import Path

from .kill import Figures, Killing, instants
from .kill.verdict import judge
from .running import reference

SHORT = (
    instants.before_the_answer,
    instants.while_looking_for_the_message,
    instants.before_recording_the_reply,
    instants.before_recording_the_delivery,
    instants.after_the_engine_died,
    instants.before_saying_that_it_is_cancelled,
    instants.before_recording_the_removal,
    instants.at_random,
)


async def test_every_job_is_answered_once_with_its_own_pictures_however_often_the_bot_is_killed(
    tmp_path: Path,
) -> None:
    # A guess at how long a step takes saves the time to measure it.
    async with Killing.start(tmp_path / "data", seed=1, step_seconds=0.02) as run:
        for instant in SHORT:
            await run.go_through(instant)
        await run.finish()
        with reference() as right:
            figures = judge(run, right)
    assert figures.accepted >= 10
    assert figures == Figures(kills=9, accepted=figures.accepted, lost=0, doubled=0, changed=0)
