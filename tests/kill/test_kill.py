"""The short form of `python -m tests.kill`: the bot is killed at a few chosen instants."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..running import reference
from . import Figures, Instant, Killing, instants
from .verdict import judge

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
    instants.before_reporting_the_cancellation,
    instants.before_recording_the_removal,
)


@pytest.mark.parametrize(
    "chosen", [pytest.param(FEW, id="few"), pytest.param(MORE, id="more", marks=pytest.mark.rare)]
)
async def test_every_job_is_answered_exactly_once_although_the_bot_is_killed(
    tmp_path: Path, chosen: tuple[Instant, ...]
) -> None:
    # A guessed duration of a step saves the time of a measurement.
    async with Killing.start(tmp_path / "data", seed=1, step_seconds=0.02) as run:
        for instant in chosen:
            await run.go_through(instant)
        await run.finish()
        with reference() as right:
            figures = judge(run, right)
    # This instant needs a kill of its own before.
    kills = len(chosen) + (instants.while_looking_for_the_message in chosen)
    assert figures.accepted >= len(chosen)
    assert figures == Figures(kills=kills, accepted=figures.accepted, lost=0, doubled=0, changed=0)
