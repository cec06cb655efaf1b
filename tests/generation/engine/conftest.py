from __future__ import annotations

import pytest

from generation.engine.engine import Engine
from generation.models.stable_diffusion import StableDiffusion
from generation.values.pixels import Pixels

from ..examples import a_request


@pytest.fixture(scope="module")
def sd15_engine(sd15: StableDiffusion) -> Engine:
    return Engine(sd15)


@pytest.fixture(scope="module")
def source(engine: Engine) -> Pixels:
    """A picture that the starter model made, so that it is one that its decoder can make."""
    return engine.generate(a_request(seed=1, steps=10))[0].pixels
