from __future__ import annotations

import asyncio
import io
import weakref
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import aiohttp
import discord
import psutil
import pytest
from PIL import Image, PngImagePlugin

from bot.interactions.requester import Requester
from bot.requests import uploads
from bot.requests.options import RequestOptions
from generation.errors import InvalidSource
from generation.images import files
from generation.images.files import Fit, Source, SourceReading
from generation.images.png import read_png
from generation.values.pixels import Pixels
from storage.records import NewJob

from ...generation.examples import EDGE
from ..stage import Stage, pictures


def _file(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def _huge() -> bytes:
    return _file(Image.new("1", (20_000, 20_000)))


def _animated() -> bytes:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    return _file(frames[0], "GIF", save_all=True, append_images=frames[1:])


async def test_a_picture_of_the_bot_is_varied_by_job_and_number(stage: Stage) -> None:
    await stage.imagine("rabbit face", seed=7, count=2)
    result = await stage.bob.slash(stage.channel, "vary", image="1-2", strength=0.8, seed=11)
    message = await stage.finished(result.response.id)
    recipe = read_png(await message.attachments[0].read())[1]
    assert (recipe.prompt, recipe.seed, recipe.strength) == ("rabbit face", 11, 0.8)
    assert recipe.scheduler == "ddim"
    assert "variation of 1-2 at strength 0.8" in message.content
    parent = (await stage.bot.service.jobs.images(1))[1]
    assert recipe.source_sha256 == parent.recipe.pixels_sha256
    assert (await stage.bot.service.jobs.images(2))[0].parent_image_id == parent.id


async def test_a_new_prompt_replaces_the_picture_s_own(stage: Stage) -> None:
    await stage.imagine("rabbit face")
    result = await stage.alice.slash(stage.channel, "vary", image="1", prompt="cat face")
    message = await stage.finished(result.response.id)
    assert "cat face" in message.content


async def test_an_attachment_is_varied_in_its_own_shape(stage: Stage) -> None:
    photo = _file(Image.new("RGB", (600, 300), "orange"), "JPEG")
    result = await stage.alice.slash(
        stage.channel, "vary", attachment=("photo.jpg", photo), prompt="red apple"
    )
    message = await stage.finished(result.response.id)
    recipe = read_png(await message.attachments[0].read())[1]
    # No side is longer than this model makes anything good of; the other, in multiples of 8, has
    # as many pixels as the model's own size (or the shape's, if it is less) allows.
    assert recipe.width == EDGE
    assert recipe.height == pytest.approx(EDGE / 2**0.5, abs=4)


def attached(read: Callable[[], Awaitable[bytes]], size: int = 1_000) -> Any:
    """Return an attachment whose bytes come from `read`."""
    photo = mock.Mock(discord.Attachment, size=size)
    photo.read = read
    return photo


def new_job(stage: Stage, person: int, photo: Any) -> asyncio.Task[NewJob]:
    # The simulation lets people type one after the other.
    cog: Any = stage.bot.get_cog("Vary")
    who, origin = mock.Mock(id=person), f"interaction:{person}"
    requester = Requester(person=who, guild_id=None, channel_id=person, origin=origin)
    return asyncio.create_task(
        cog._from_upload(requester, photo, RequestOptions(prompt="red apple"))
    )


async def test_files_are_read_two_at_a_time_and_nobody_waits_for_all_of_another(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    alive = most = 0

    async def read(reading: SourceReading) -> Source:
        nonlocal alive, most
        alive += 1
        begun.append(alive)
        most = max(most, alive)
        await asyncio.sleep(0.02)
        alive -= 1
        return Source(Pixels(64, 64, bytes(3 * 64 * 64)), None)

    monkeypatch.setattr(uploads, "_read", read)
    first = [new_job(stage, 1, attached(mock.AsyncMock(return_value=b"many"))) for _ in range(20)]
    await asyncio.sleep(0)
    await new_job(stage, 2, attached(mock.AsyncMock(return_value=b"one")))
    assert len(begun) < 6
    jobs = await asyncio.gather(*first)
    assert all(job.request.prompt == "red apple" for job in jobs)
    assert 1 <= most <= 2


async def test_stalled_downloads_block_nobody(stage: Stage) -> None:
    stalled = asyncio.Event()
    picture = _file(Image.new("RGB", (64, 64), "orange"))

    async def slow() -> bytes:
        await stalled.wait()
        return picture

    stuck = [new_job(stage, person, attached(slow)) for person in (1, 2)]
    await asyncio.sleep(0)
    third = new_job(stage, 3, attached(mock.AsyncMock(return_value=picture)))
    async with asyncio.timeout(30):
        assert (await third).request.prompt == "red apple"
    stalled.set()
    await asyncio.gather(*stuck)


async def test_cancelling_a_request_stops_the_reading_of_its_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "_START", "import time; time.sleep(60)")
    picture = _file(Image.new("RGB", (64, 64), "orange"))
    fit = Fit(native=64, multiple=8, most=64)
    reading = asyncio.create_task(uploads._read(SourceReading(picture, fit)))

    def reads() -> bool:
        # A child that was killed and not waited for yet has no command line any more.
        alive = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
        return any("sleep(60)" in " ".join(child.cmdline()) for child in alive)

    async with asyncio.timeout(30):
        while not reads():  # noqa: ASYNC110 - it is told by another process
            await asyncio.sleep(0.01)
        reading.cancel()
        while reads():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class File(bytearray):
    """Bytes that can be watched being forgotten."""


async def test_a_refused_file_is_freed_before_the_answer_is_sent(stage: Stage) -> None:
    files_read: list[weakref.ref[File]] = []

    async def read() -> bytes:
        file = File(b"no picture")
        files_read.append(weakref.ref(file))
        return file  # type: ignore[return-value]

    # It holds the frames of all that it came through, as while it is answered.
    with pytest.raises(InvalidSource, match="not an image"):
        await new_job(stage, 1, attached(read))
    assert [file() for file in files_read] == [None]


@pytest.mark.parametrize(
    "fault", [aiohttp.ClientConnectionError("x"), TimeoutError(), OSError("x"), ValueError("x")]
)
async def test_an_attachment_that_cannot_be_fetched_gets_one_sentence(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(discord.Attachment, "read", mock.AsyncMock(side_effect=fault))
    result = await stage.alice.slash(
        stage.channel, "vary", attachment=("a.png", b"x"), prompt="red apple"
    )
    assert result.response.content == (
        "That file could not be fetched from Discord; please attach it again."
    )


async def test_an_animation_is_its_first_picture(stage: Stage) -> None:
    result = await stage.alice.slash(
        stage.channel, "vary", attachment=("moving.gif", _animated()), prompt="red apple"
    )
    await stage.finished(result.response.id)


async def test_the_prompts_of_another_program_are_used(stage: Stage) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "red apple\nNegative prompt: a cat\nSteps: 20, Seed: 1")
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "orange").save(file, "PNG", pnginfo=chunks)
    result = await stage.alice.slash(stage.channel, "vary", attachment=("a.png", file.getvalue()))
    message = await stage.finished(result.response.id)
    assert "red apple" in message.content
    assert "without: a cat" in message.content


async def test_an_attached_picture_of_ours_needs_no_prompt(stage: Stage) -> None:
    kept = await (await stage.imagine("rabbit face")).attachments[0].read()
    result = await stage.alice.slash(stage.channel, "vary", attachment=("kept.png", kept))
    assert "rabbit face" in (await stage.finished(result.response.id)).content


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("notes.txt", b"hello", "That file is not an image that I can read"),
        ("liar.png", b"<html>not a picture</html>", "That file is not an image that I can read"),
        ("huge.png", _huge(), "pixels; send one of at most 40 million."),
        ("half.png", _file(Image.effect_noise((64, 64), 90))[:900], "That image is damaged"),
        ("empty.png", b"", "That file is not an image that I can read"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
async def test_an_attachment_that_is_no_picture_gets_one_sentence(
    stage: Stage, name: str, data: bytes, sentence: str
) -> None:
    result = await stage.alice.slash(
        stage.channel, "vary", attachment=(name, data), prompt="red apple"
    )
    assert result.ephemeral
    assert sentence in result.response.content
    assert len(result.response.content.splitlines()) == 1
    assert stage.messages() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Say which picture to vary"),
        ({"image": "99-1"}, "There is no picture 99-1 that you can see here"),
        ({"image": "1-4"}, "There is no picture 1-4 that you can see here"),
        ({"image": "1-9"}, "'1-9' names no picture"),
        ({"image": "the rabbit"}, "'the rabbit' names no picture"),
        ({"image": "99999999999999999999"}, "names no picture"),
        ({"image": "1", "prompt": "  "}, "The prompt is empty"),
    ],
    ids=str,
)
async def test_a_wrong_reference_gets_one_sentence(
    stage: Stage, options: dict[str, object], sentence: str
) -> None:
    await stage.imagine("rabbit face")
    result = await stage.alice.slash(stage.channel, "vary", **options)
    assert result.ephemeral
    assert sentence in result.response.content
    assert len(stage.messages()) == 1


async def test_an_attachment_without_a_prompt_asks_for_one(stage: Stage) -> None:
    plain = _file(Image.new("RGB", (64, 64), "orange"))
    result = await stage.alice.slash(stage.channel, "vary", attachment=("plain.png", plain))
    assert result.response.content == "Say what the picture should become: add a prompt."


async def test_a_forged_recipe_in_an_attachment_is_not_believed(stage: Stage) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("imagine-bot", '{"prompt": ["@everyone"]}')
    forged = _file(Image.new("RGB", (64, 64), "orange"), pnginfo=chunks)
    result = await stage.alice.slash(stage.channel, "vary", attachment=("forged.png", forged))
    assert result.response.content == "Say what the picture should become: add a prompt."


async def test_a_picture_in_a_channel_that_one_cannot_read_does_not_exist(stage: Stage) -> None:
    secret = stage.guild.create_text_channel(
        "secret",
        overwrites={
            stage.guild.default_role: discord.PermissionOverwrite(view_channel=False),
            stage.alice: discord.PermissionOverwrite(view_channel=True),
            stage.guild.me: discord.PermissionOverwrite(view_channel=True, attach_files=True),
        },
    )
    result = await stage.alice.slash(secret, "imagine", prompt="rabbit face")
    await stage.until(
        lambda: [m for m in secret.history() if m.id == result.response.id and pictures(m)]
    )
    denied = await stage.bob.slash(stage.channel, "vary", image="1-1")
    assert denied.response.content == (
        "There is no picture 1-1 that you can see here; /history lists your own."
    )
    allowed = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert not allowed.ephemeral


async def test_typing_an_image_suggests_one_s_own_pictures(stage: Stage) -> None:
    await stage.imagine("rabbit face", count=2)
    await stage.imagine("cat face")
    choices = await stage.alice.autocomplete(stage.channel, "vary", "image", "rabb")
    assert choices == [
        {"name": "1-1 · rabbit face", "value": "1-1"},
        {"name": "1-2 · rabbit face", "value": "1-2"},
    ]
    assert await stage.bob.autocomplete(stage.channel, "vary", "image", "") == []


async def test_a_job_and_a_number_suggest_that_picture(stage: Stage) -> None:
    await stage.imagine("rabbit face", count=2)
    await stage.imagine("cat face 1")

    async def suggested(typed: str) -> list[str]:
        choices = await stage.alice.autocomplete(stage.channel, "vary", "image", typed)
        return [str(choice["value"]) for choice in choices]

    assert await suggested("1") == ["1-1", "1-2", "2-1"]
    assert (await suggested("1-"))[:2] == ["1-1", "1-2"]
    assert await suggested("1-2") == ["1-2", "1-1"]
    assert await suggested("#1.2") == ["1-1", "1-2"]
    assert await suggested("2-1") == ["2-1"]
    assert await suggested("7-1") == []
