"""The short form of `python -m tests.kill`: the bot dies at the instants that hurt most."""

from __future__ import annotations

from pathlib import Path

import pytest

from .kill import Figures, Instant, Killing, instants
from .kill.verdict import judge
from .running import reference

# The first three lose or double an answer most easily. `INSTANTS` has more of them.
FEW = (
    instants.before_the_answer,
    instants.before_recording_the_delivery,
    instants.at_random,
)
MORE = (
    instants.while_looking_for_the_message,
    instants.before_recording_the_reply,
    instants.after_the_engine_died,
    instants.before_saying_that_it_is_cancelled,
    instants.before_recording_the_removal,
)


@pytest.mark.parametrize(
    "chosen", [pytest.param(FEW, id="few"), pytest.param(MORE, id="more", marks=pytest.mark.rare)]
)
async def test_every_job_is_answered_once_with_its_own_pictures_however_often_the_bot_is_killed(
    tmp_path: Path, chosen: tuple[Instant, ...]
) -> None:
    # A guess at how long a step takes saves the time to measure it.
    async with Killing.start(tmp_path / "data", seed=1, step_seconds=0.02) as run:
        for instant in chosen:
            await run.go_through(instant)
        await run.finish()
        with reference() as right:
            figures = judge(run, right)
    # An instant kills once more on the way if it looks for the message of the first.
    kills = len(chosen) + (instants.while_looking_for_the_message in chosen)
    assert figures.accepted >= len(chosen)
    assert figures == Figures(kills=kills, accepted=figures.accepted, lost=0, doubled=0, changed=0)
