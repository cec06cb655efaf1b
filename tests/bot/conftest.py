from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import simcord

from bot.client import ImagineBot, MakeEngine, create_bot
from bot.config import Settings
from generation.engine import Engine
from generation.locate import locate
from generation.weights import load

from .stage import Stage


@pytest.fixture(scope="session")
def make_engine() -> MakeEngine:
    """The real engine with the real weights, loaded once for all tests."""
    engine = Engine(load(locate("starter")))
    return lambda: engine


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", steps=2, progress_seconds=0.2)


@pytest.fixture
def simcord_bot(settings: Settings, make_engine: MakeEngine) -> ImagineBot:
    return create_bot(settings, make_engine=make_engine)


@pytest.fixture
async def stage(
    simcord_env: simcord.Env, settings: Settings, make_engine: MakeEngine
) -> AsyncIterator[Stage]:
    stage = Stage(simcord_env, settings, make_engine)
    yield stage
    await stage.bot.close()
