from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import pytest

from bot.client import MakeEngine
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import ModelError
from generation.values.recipe import GeneratedImage
from storage.states import JobStatus

from ..stage import GatedEngine, Stage, button_actions


class FragileEngine(GatedEngine):
    """The real engine, which breaks at certain prompts."""

    def step(self, images: Sequence[Denoising]) -> None:
        if any(image.request.prompt == "out of order" for image in images):
            raise RuntimeError("CUDA driver out of order. Tried 20 times\nmany details")
        super().step(images)

    def finish(self, images: Sequence[Denoising]) -> list[GeneratedImage | None]:
        return [
            dataclasses.replace(finished, recipe=None)  # type: ignore[arg-type]
            if finished is not None and image.request.prompt == "no recipe"
            else finished
            for image, finished in zip(images, super().finish(images), strict=True)
        ]


@pytest.fixture
def gate(engine: Engine) -> GatedEngine:
    return FragileEngine(engine)


async def test_a_job_that_breaks_the_engine_is_answered_and_the_next_one_is_made(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    result = await stage.alice.slash(stage.channel, "imagine", prompt="out of order")
    await stage.until(lambda: "⚠️" in stage.look(result.response.id).content)
    message = stage.look(result.response.id)
    assert "CUDA driver out of order. Tried 20 times" in message.content
    assert "many details" not in message.content
    assert button_actions(message) == ["rerun:1", "remove:1"]
    assert "The engine failed on job 1" in caplog.text
    assert (await stage.imagine("rabbit face")).attachments


async def test_an_unforeseen_error_is_answered_with_a_code_that_the_log_explains(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    result = await stage.alice.slash(stage.channel, "imagine", prompt="no recipe")
    await stage.until(lambda: "⚠️" in stage.look(result.response.id).content)
    content = stage.look(result.response.id).content
    code = content.split("the code ")[1].split(".")[0]
    assert f"Unexpected error {code}" in caplog.text
    assert "Traceback" not in content
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.status is JobStatus.FAILED
    assert (await stage.imagine("rabbit face")).attachments


class TestUnloadable:
    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        def fail() -> GatedEngine:
            raise ModelError("The model is broken; choose another.")

        return fail

    async def test_an_engine_that_cannot_be_loaded_stops_the_bot_and_loses_nothing(
        self, stage: Stage, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        await stage.until(stage.bot.is_closed)
        assert str(stage.bot.failure) == "The model is broken; choose another."
