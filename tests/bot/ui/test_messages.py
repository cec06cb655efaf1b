from __future__ import annotations

import dataclasses
import io
import re
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bot.ui import messages
from generation.images.png import to_png
from generation.values.events import Progress, Waiting
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from generation.values.request import PROMPT_LENGTH, SEED_MAX, GenerationRequest
from storage.records import HistoryEntry, Job, JobKind
from storage.states import JobStatus

REQUEST = GenerationRequest(
    prompt="owl", seed=7, width=64, height=64, steps=25, guidance_scale=4.0, scheduler="lms"
)
JOB = Job(
    id=42,
    kind=JobKind.IMAGINE,
    status=JobStatus.QUEUED,
    user_id=5,
    guild_id=1,
    channel_id=2,
    message_id=3,
    request=REQUEST,
    error=None,
    attempts=0,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    deleted=False,
)
RECIPE = Recipe(
    prompt="owl",
    negative_prompt="",
    seed=7,
    width=64,
    height=64,
    steps=25,
    guidance_scale=4.0,
    scheduler="lms",
    scheduler_settings={},
    model="starter",
    model_sha256="0" * 64,
    dtype="float32",
    device="cpu",
    source_sha256=None,
    strength=None,
    unread_prompt="",
    versions={},
    pixels_sha256="0" * 64,
)
DISCORD_LENGTH = 2_000


def asking(prompt: str) -> Job:
    return dataclasses.replace(JOB, request=dataclasses.replace(REQUEST, prompt=prompt))


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    .map(lambda text: (text * PROMPT_LENGTH)[:PROMPT_LENGTH])
    .filter(str.strip)
)
def test_no_prompt_makes_a_message_longer_than_discord_takes(prompt: str) -> None:
    job = asking(prompt)
    recipe = dataclasses.replace(
        RECIPE,
        prompt=prompt,
        negative_prompt=prompt,
        unread_prompt=prompt,
        strength=0.123456,
        seed=SEED_MAX,
    )
    for text in (
        messages.waiting(job),
        messages.waiting(job, Progress(3, 7)),
        messages.waiting(job, Waiting(3)),
        messages.waiting(job, Progress(3, 7, 5_000)),
        messages.waiting(job, Waiting(1_000, 5_000)),
        messages.cancelled(job),
        messages.finished(job, recipe),
    ):
        assert len(text) <= DISCORD_LENGTH
    assert len(messages.alt_text(job, recipe, 1, 4)) <= 1_024


def test_a_prompt_over_several_lines_stays_on_one() -> None:
    assert messages.headline(asking("an owl\n\nin\ta tree")) == "**an owl in a tree** — <@5>"


def noise(side: int) -> tuple[Recipe, bytes]:
    image = Image.effect_noise((side, side), 120).convert("RGB")
    recipe = dataclasses.replace(RECIPE, width=side, height=side)
    return recipe, to_png(Pixels(side, side, image.tobytes()), recipe)


def test_pictures_that_are_too_large_together_are_sent_as_jpegs_that_fit() -> None:
    pictures = [noise(512)] * 4
    whole = messages.attachments(JOB, pictures, limit=10 * 2**20)
    assert [file.filename for file in whole] == [f"imagine-42-{n}.png" for n in (1, 2, 3, 4)]
    assert [file.data for file in whole] == [png for _, png in pictures]
    limit = sum(len(file.data) for file in whole) // 3
    small = messages.attachments(JOB, pictures, limit=limit)
    assert [file.filename for file in small] == [f"imagine-42-{n}.jpg" for n in (1, 2, 3, 4)]
    assert sum(len(file.data) for file in small) <= limit
    with Image.open(io.BytesIO(small[0].data)) as image:
        assert image.size == (512, 512)


def test_only_small_pictures_are_enlarged_and_by_a_whole_factor() -> None:
    for side, shown in ((64, 256), (96, 288), (128, 256), (200, 400), (256, 256), (512, 512)):
        (file,) = messages.attachments(JOB, [noise(side)], limit=10 * 2**20)
        with Image.open(io.BytesIO(file.data)) as image:
            assert image.size == (shown, shown)


sides = st.integers(1, 256)


@given(sides, sides)
def test_a_preview_is_enlarged_by_a_whole_factor_to_a_size_that_can_be_seen(
    width: int, height: int
) -> None:
    job = asking("o" * PROMPT_LENGTH)
    file = messages.preview(job, 40, Pixels(width, height, b"\x80" * 3 * width * height))
    with Image.open(io.BytesIO(file.data)) as image:
        factor = image.width // width
        assert image.size == (factor * width, factor * height)
        assert 128 < max(image.size) <= 256
        assert image.getpixel((0, 0)) == (128, 128, 128)
    assert len(file.description) == 1_024
    assert len(file.data) < 4_096


def test_a_preview_is_enlarged_smoothly() -> None:
    halves = Pixels(2, 1, bytes((0, 0, 0, 255, 255, 255)))
    with Image.open(io.BytesIO(messages.preview(JOB, 40, halves).data)) as image:
        row = [image.convert("L").getpixel((x, 64)) for x in range(0, 256, 16)]
    assert row == sorted(row)
    assert len(set(row)) > 6


@given(st.text("ab [](){}*_~|`<>#-\\:/.", min_size=1, max_size=80).filter(str.strip))
def test_no_markup_in_a_prompt_is_left_standing(prompt: str) -> None:
    bare = re.sub(r"\\.", "", messages.quoted(prompt))
    assert not set(bare) & set("\\_*~|`<>[]()#-")


def test_a_history_of_long_prompts_fits_into_one_message() -> None:
    entries = [
        HistoryEntry(
            job_id=10**6 + number,
            prompt="*long* " * 100,
            kind=JobKind.IMAGINE,
            status=JobStatus.DELIVERED,
            seed=SEED_MAX,
            count=1,
            created_at=JOB.created_at,
            guild_id=10**18,
            channel_id=10**18,
            message_id=10**18,
        )
        for number in range(10)
    ]
    text = messages.history(entries, "")
    assert len(text) <= DISCORD_LENGTH
    assert len(text.splitlines()) > 3
