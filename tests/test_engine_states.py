"""The real engine's process is killed or stopped; the messages of the running bot say so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .kill.engine import can_be_found, engine_of
from .rig import Discord
from .running import imagine_bot

STEPS = 150
PACE = 0.4


@pytest.mark.skipif(not can_be_found(), reason="this system has no /proc")
async def test_a_message_says_soon_that_the_engine_is_silent_and_at_once_that_it_stopped(
    tmp_path: Path,
) -> None:
    async with (
        Discord.start() as world,
        imagine_bot(
            world, tmp_path / "data", steps=STEPS, progress_seconds=PACE, step_timeout=60
        ) as bot,
    ):
        await bot.ready()
        asked = await world.slash("imagine", where=world.channel, prompt="rabbit face")
        await asked.answered()

        def says(words: str) -> bool:
            return asked.message is not None and words in asked.message.content

        await world.until(lambda: says(" %") and not says(" 0 %"), within=60, what="progress")
        engine = engine_of(bot.pid)
        assert engine is not None
        os.kill(engine, signal.SIGSTOP)
        await world.until(lambda: says("taking longer than expected"), within=20, what="the delay")
        assert not says("left")

        os.kill(engine, signal.SIGKILL)
        killed = time.monotonic()
        await world.until(
            lambda: says("the engine stopped and starts again; your place was kept"),
            within=10,
            what="the word of the engine's end",
        )
        assert time.monotonic() - killed < 5.0
        assert not says("%")
