from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from bot.ui import messages
from generation.values.events import Progress, Waiting
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
        reference_sha256=["0" * 64] * 4,
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


@given(st.text("ab [](){}*_~|`<>#-\\:/.", min_size=1, max_size=80).filter(str.strip))
def test_no_markup_in_a_prompt_works(prompt: str) -> None:
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
