from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import simcord

from bot.client import ImagineBot, MakeEngine, create_bot
from bot.config import Settings
from generation.engine.engine import Engine
from generation.models.loading import load
from generation.models.locate import locate

from .stage import GatedEngine, Stage

# How long an example takes says nothing on a machine that others use as well.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The real engine with the real weights, loaded once for all tests."""
    return Engine(load(locate("starter")))


@pytest.fixture
def gate(engine: Engine) -> Iterator[GatedEngine]:
    gated = GatedEngine(engine)
    yield gated
    gated.open()


@pytest.fixture
def make_engine(gate: GatedEngine) -> MakeEngine:
    return lambda: gate


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", steps=2, progress_seconds=0.2)


@pytest.fixture
def simcord_bot(settings: Settings, make_engine: MakeEngine) -> ImagineBot:
    return create_bot(settings, make_engine=make_engine)


@pytest.fixture
async def stage(
    simcord_env: simcord.Env, settings: Settings, make_engine: MakeEngine, gate: GatedEngine
) -> AsyncIterator[Stage]:
    stage = Stage(simcord_env, settings, make_engine)
    yield stage
    gate.open()
    await stage.bot.close()
