"""Previews in the messages of a simulated Discord, sent by the real courier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import discord
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from bot.config import Settings
from bot.delivery.courier import DiscordCourier
from bot.jobs.courier_protocol import Picture
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.images.png import write_png
from generation.values.events import Progress, Waiting
from generation.values.pixels import Pixels
from storage.records import Job, JobKind, NewJob

from ...storage.samples import finished, request
from ..stage import GatedEngine, Stage, opened, pictures

BLUE = Pixels(16, 16, bytes((0, 0, 255)) * 256)
RED = Pixels(16, 16, bytes((255, 0, 0)) * 256)


class Showing:
    """A job with its message, to which progress is reported by hand."""

    def __init__(self, stage: Stage, courier: DiscordCourier, job: Job, message_id: int) -> None:
        self.stage = stage
        self.courier = courier
        self.job = job
        self.message_id = message_id

    @property
    def message(self) -> discord.Message:
        return self.stage.look(self.message_id)

    async def says(self, text: str) -> discord.Message:
        await self.stage.until(lambda: text in self.message.content)
        return self.message

    def edits(self) -> list[Any]:
        path = f"/messages/{self.message_id}"
        sent = self.stage.env.http_requests
        return [entry for entry in sent if entry.method == "PATCH" and entry.path.endswith(path)]

    def show(self, event: Progress | Waiting) -> None:
        self.courier.progress(self.job, self.message_id, event)

    async def pictures(self) -> list[Picture]:
        jobs = self.stage.bot.service.jobs
        await jobs.start(self.job.id)
        images = [image for image, _ in finished(self.job.request)]
        files = [(image, write_png(image.pixels, image.recipe)) for image in images]
        assert await jobs.complete(self.job.id, files)
        return await self.stage.bot.service.pictures(self.job)


@pytest.fixture
async def showing(stage: Stage) -> Showing:
    return await begin(stage)


async def begin(stage: Stage) -> Showing:
    new = NewJob(
        kind=JobKind.IMAGINE,
        user_id=stage.alice.id,
        guild_id=stage.guild.id,
        channel_id=stage.channel.id,
        request=request("an owl"),
    )
    job = await stage.bot.service.jobs.add(new)
    return Showing(stage, stage.bot.courier, job, await stage.bot.courier.post(job))


def is_about(image_pixel: tuple[int, ...], colour: tuple[int, int, int]) -> bool:
    return all(abs(one - other) < 8 for one, other in zip(image_pixel, colour, strict=True))


async def test_progress_brings_a_preview_that_the_next_one_replaces(showing: Showing) -> None:
    showing.show(Progress(1, 4, 9.0, BLUE))
    message = await showing.says("25 % · about 9 s left")
    (file,) = message.attachments
    assert file.filename == "preview-1.jpg"
    assert file.description == "A blurred preview at 25 %: an owl"
    image = await opened(file)
    assert (image.format, image.size) == ("JPEG", (256, 256))
    assert is_about(image.getpixel((128, 128)), (0, 0, 255))

    showing.show(Progress(2, 4, 6.0, RED))
    (file,) = (await showing.says("50 %")).attachments
    assert is_about((await opened(file)).getpixel((128, 128)), (255, 0, 0))
    assert not pictures(showing.message)


async def test_progress_without_a_preview_leaves_the_one_that_is_there(showing: Showing) -> None:
    showing.show(Progress(1, 4, preview=BLUE))
    before = (await showing.says("25 %")).attachments
    showing.show(Progress(3, 4))
    after = (await showing.says("75 %")).attachments
    assert [file.id for file in after] == [file.id for file in before]


async def test_a_preview_that_is_overtaken_before_its_turn_is_shown_all_the_same(
    showing: Showing,
) -> None:
    showing.show(Progress(1, 4, preview=BLUE))
    showing.show(Progress(2, 4, preview=RED))
    showing.show(Progress(3, 4))
    (file,) = (await showing.says("75 %")).attachments
    assert is_about((await opened(file)).getpixel((128, 128)), (255, 0, 0))
    assert len(showing.edits()) == 1


async def test_a_job_that_waits_for_its_next_turn_keeps_its_preview(showing: Showing) -> None:
    showing.show(Progress(1, 4, preview=BLUE))
    await showing.says("25 %")
    showing.show(Waiting(2, 30.0))
    assert (await showing.says("in the queue · about 30 s")).attachments


async def test_the_pictures_take_the_place_of_the_preview(showing: Showing) -> None:
    showing.show(Progress(1, 4, preview=BLUE))
    await showing.says("25 %")
    showing.show(Progress(2, 4, preview=RED))
    await showing.courier.deliver(showing.job, showing.message_id, showing.pictures, parent=None)
    assert [file.filename for file in pictures(showing.message)] == ["imagine-1-1.png"]
    await showing.stage.env.advance_time(5)
    assert [file.filename for file in showing.message.attachments] == ["imagine-1-1.png"]


async def test_no_preview_is_left_below_a_failed_or_a_cancelled_job(stage: Stage) -> None:
    failed, cancelled = await begin(stage), await begin(stage)
    for showing in (failed, cancelled):
        showing.show(Progress(1, 4, preview=BLUE))
        await showing.says("25 %")
        assert showing.message.attachments
    await failed.courier.report_failure(failed.job, failed.message_id, "It broke.")
    await cancelled.courier.report_cancellation(cancelled.job, cancelled.message_id)
    assert "It broke." in failed.message.content
    assert "cancelled" in cancelled.message.content
    assert failed.message.attachments == cancelled.message.attachments == []


async def test_a_failure_is_reported_even_where_files_may_not_be_removed(
    showing: Showing,
) -> None:
    path = f"/channels/*/messages/{showing.message_id}"
    showing.stage.env.inject_error("PATCH", path, status=403, code=50013)
    await showing.courier.report_failure(showing.job, showing.message_id, "It broke.")
    assert "It broke." in showing.message.content
    assert len(showing.edits()) == 2


@pytest.mark.parametrize(("status", "code"), [(403, 50013), (413, 40005)])
async def test_where_discord_refuses_files_the_text_is_shown_and_no_file_is_tried_again(
    showing: Showing, status: int, code: int
) -> None:
    path = f"/channels/*/messages/{showing.message_id}"
    showing.stage.env.inject_error("PATCH", path, status=status, code=code)
    showing.show(Progress(1, 4, preview=BLUE))
    assert (await showing.says("25 %")).attachments == []
    assert len(showing.edits()) == 2
    showing.show(Progress(2, 4, preview=RED))
    assert (await showing.says("50 %")).attachments == []
    assert len(showing.edits()) == 3

    other = await begin(showing.stage)
    other.show(Progress(1, 4, preview=BLUE))
    assert (await other.says("25 %")).attachments


async def test_a_fault_that_may_pass_costs_one_preview_only(showing: Showing) -> None:
    path = f"/channels/*/messages/{showing.message_id}"
    showing.stage.env.inject_error("PATCH", path, status=503)
    showing.show(Progress(1, 4, preview=BLUE))
    await showing.stage.until(showing.edits)
    showing.show(Progress(2, 4, preview=RED))
    assert (await showing.says("50 %")).attachments


class PausingEngine(GatedEngine):
    """The real engine, which stops after its second step until the gate is opened."""

    taken = 0

    def step(self, images: Sequence[Denoising]) -> None:
        super().step(images)
        self.taken += 1
        if self.taken == 2:
            self.shut()


class TestWithTheRealEngine:
    @pytest.fixture
    def gate(self, engine: Engine) -> GatedEngine:
        return PausingEngine(engine)

    async def test_a_preview_looks_like_the_picture_that_takes_its_place(
        self, stage: Stage, gate: GatedEngine
    ) -> None:
        result = await stage.alice.slash(
            stage.channel, "imagine", prompt="a pizza on a blue background", steps=4
        )
        await stage.until(lambda: "50 %" in stage.look(result.response.id).content)
        (file,) = stage.look(result.response.id).attachments
        assert file.filename == "preview-1.jpg"
        preview = await opened(file)
        assert max(preview.size) == 256
        gate.open()
        (file,) = (await stage.finished(result.response.id)).attachments
        assert file.filename == "imagine-1-1.png"
        picture = await opened(file)
        assert picture.size == preview.size
        assert difference(preview, picture) < difference(ImageOps.invert(preview), picture)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two pictures, seen from afar, from 0 to 255."""
    small = [image.convert("RGB").resize((8, 8)) for image in (one, other)]
    return sum(ImageStat.Stat(ImageChops.difference(*small)).mean) / 3


class TestSwitchedOff:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data=tmp_path / "data", steps=2, progress_seconds=0.2, previews=False)

    async def test_no_preview_is_shown(self, showing: Showing) -> None:
        showing.show(Progress(1, 4, 9.0, preview=BLUE))
        assert (await showing.says("25 % · about 9 s left")).attachments == []
        assert len(showing.edits()) == 1
