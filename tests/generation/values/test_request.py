from __future__ import annotations

import dataclasses
import hashlib
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.errors import GenerationError, InvalidRequest
from generation.values.events import Progress
from generation.values.pixels import Pixels, StoredPixels
from generation.values.request import (
    COUNT_MAX,
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    PROMPT_LENGTH,
    RESCALE_MAX,
    SCHEDULERS,
    SEED_MAX,
    SIZE_MAX,
    SIZE_MIN,
    SIZE_MULTIPLE,
    STEPS_MAX,
    STRENGTH_MIN,
    GenerationRequest,
)

from ..examples import a_request, gradient

HUGE = 10**400
NOT_NUMBERS: tuple[Any, ...] = ("7", None, True, math.nan, math.inf, -math.inf, HUGE, [7])

prompts = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=PROMPT_LENGTH)
sizes = st.integers(SIZE_MIN // SIZE_MULTIPLE, SIZE_MAX // SIZE_MULTIPLE).map(
    lambda multiple: multiple * SIZE_MULTIPLE
)
requests = st.builds(
    GenerationRequest,
    prompt=prompts.filter(str.strip),
    negative_prompt=prompts,
    seed=st.integers(0, SEED_MAX),
    width=sizes,
    height=sizes,
    steps=st.integers(1, STEPS_MAX),
    guidance_scale=st.floats(GUIDANCE_MIN, GUIDANCE_MAX),
    guidance_rescale=st.none() | st.floats(0, RESCALE_MAX),
    scheduler=st.sampled_from(SCHEDULERS),
    count=st.integers(1, COUNT_MAX),
)


def refusal(**changes: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        a_request(**changes)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert isinstance(caught.value, GenerationError)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"prompt": " \n"}, "prompt", "The prompt is empty; say what you want to see."),
        (
            {"prompt": "x" * 1_001},
            "prompt",
            "The prompt has 1,001 characters; keep it to 1,000.",
        ),
        (
            {"negative_prompt": "x" * 2_000},
            "negative prompt",
            "The negative prompt has 2,000 characters; keep it to 1,000.",
        ),
        (
            {"prompt": "a\x00b"},
            "prompt",
            "The prompt holds a character that is none; type it again.",
        ),
        (
            {"negative_prompt": "half \ud83e a rabbit"},
            "negative prompt",
            "The negative prompt holds a character that is none; type it again.",
        ),
        ({"prompt": 5}, "prompt", "The prompt is 5; use a text."),
        ({"negative_prompt": None}, "negative prompt", "The negative prompt is None; use a text."),
        (
            {"seed": -1},
            "seed",
            "For seed use a whole number from 0 to 4,294,967,295, not -1.",
        ),
        ({"seed": 2**32}, "seed", None),
        ({"seed": 1.0}, "seed", None),
        ({"steps": 0}, "steps", "For steps use a whole number from 1 to 150, not 0."),
        ({"steps": 151}, "steps", None),
        ({"steps": 2.5}, "steps", None),
        (
            {"guidance_scale": 0.99},
            "guidance scale",
            "For guidance scale use a number from 1.0 to 30.0, not 0.99.",
        ),
        ({"guidance_scale": 30.1}, "guidance scale", None),
        (
            {"guidance_rescale": 1.1},
            "guidance rescale",
            "For guidance rescale use a number from 0.0 to 1.0, not 1.1.",
        ),
        ({"guidance_rescale": -0.1}, "guidance rescale", None),
        ({"count": 0}, "count", None),
        ({"count": 5}, "count", "For count use a whole number from 1 to 4, not 5."),
        ({"width": 0}, "width", None),
        ({"height": 24}, "height", "For height use a whole number from 32 to 2,048, not 24."),
        ({"width": 2_056}, "width", None),
        (
            {"width": 100},
            "width",
            "The width is 100, which is not a multiple of 8; use 96 or 104.",
        ),
        ({"height": 33}, "height", "The height is 33, which is not a multiple of 8; use 32 or 40."),
        (
            {"scheduler": "restart"},
            "scheduler",
            f"There is no scheduler 'restart'; choose one of {', '.join(SCHEDULERS)}.",
        ),
        (
            {"spacing": "wide"},
            "spacing",
            "There is no spacing 'wide'; choose one of karras, exponential, beta, trailing.",
        ),
        ({"scheduler": ["ddim"]}, "scheduler", None),
        (
            {"strength": 0.5},
            "strength",
            "A strength needs an image to start from; add an image.",
        ),
        (
            {"source": gradient()},
            "strength",
            "An image to start from needs a strength, say 0.6.",
        ),
        (
            {"source": gradient(), "strength": 0.01},
            "strength",
            "For strength use a number from 0.05 to 1.0, not 0.01.",
        ),
        ({"source": gradient(), "strength": 1.01}, "strength", None),
        (
            {"source": gradient(32, 40), "strength": 0.5},
            "image",
            "The image is 32x40 but the picture is to be 64x64; give both the same size.",
        ),
        (
            {"references": (gradient(),) * 5},
            "references",
            "There are 5 reference pictures; use at most 4.",
        ),
        (
            {"references": (gradient(), gradient(64, 63))},
            "references",
            "Reference picture 2 is 64x63; both sides need at least 64 pixels.",
        ),
        (
            {"references": (StoredPixels(1_024, 1_025),)},
            "references",
            "Reference picture 1 is 1024x1025; scale it to at most 1,048,576 pixels in all.",
        ),
    ],
)
def test_a_value_that_will_not_do_is_named_with_what_would(
    changes: dict[str, Any], field: str, sentence: str | None
) -> None:
    error = refusal(**changes)
    assert error.field == field
    if sentence is not None:
        assert str(error) == sentence


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("name", ["seed", "width", "height", "steps", "count", "guidance_scale"])
def test_what_is_no_number_is_refused_like_one_out_of_range(name: str, value: object) -> None:
    assert refusal(**{name: value}).field == name.replace("_", " ")


@pytest.mark.parametrize(
    "value",
    [value for value in NOT_NUMBERS if value is not None],
    ids=lambda value: repr(value)[:9],
)
def test_a_strength_that_is_no_number_is_refused(value: object) -> None:
    assert refusal(source=gradient(), strength=value).field == "strength"


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "x" * PROMPT_LENGTH},
        {"prompt": "🐇\n'\"\\\t"},
        {"seed": 0},
        {"seed": SEED_MAX},
        {"steps": 1},
        {"steps": STEPS_MAX},
        {"guidance_scale": 1},
        {"guidance_scale": GUIDANCE_MAX},
        {"guidance_rescale": 0},
        {"guidance_rescale": RESCALE_MAX},
        {"width": SIZE_MIN, "height": SIZE_MAX},
        {"count": COUNT_MAX},
        {"source": gradient(), "strength": STRENGTH_MIN},
        {"source": gradient(), "strength": 1},
        {"references": (StoredPixels(1_024, 1_024),) * 4},
    ],
    ids=lambda changes: repr(changes)[:30],
)
def test_the_ends_of_each_range_are_allowed(changes: dict[str, Any]) -> None:
    a_request(**changes)


def test_a_request_without_pixels_keeps_the_sizes_of_its_pictures() -> None:
    asked = a_request(source=gradient(), strength=0.5, references=(gradient(96, 64), gradient()))
    stored = asked.without_pixels()
    assert stored.pictures == tuple(map(StoredPixels.of, asked.pictures))
    assert (stored.source, stored.references) == (stored.pictures[0], stored.pictures[1:])
    assert stored.without_pixels() == stored
    for read in (lambda: stored.pixels, lambda: stored.reference_pixels):
        with pytest.raises(TypeError, match="not been read"):
            read()


@given(st.integers() | st.floats() | st.text(max_size=3))
def test_a_size_is_either_refused_or_fits_every_limit(width: Any) -> None:
    fits = isinstance(width, int) and width in range(SIZE_MIN, SIZE_MAX + 1, SIZE_MULTIPLE)
    if fits:
        assert a_request(width=width).width == width
    else:
        assert refusal(width=width).field == "width"


@given(st.integers(SIZE_MIN, SIZE_MAX).filter(lambda width: width % SIZE_MULTIPLE))
def test_the_sizes_that_a_refusal_offers_are_accepted(width: int) -> None:
    offered = str(refusal(width=width)).split("; use ")[1].rstrip(".").split(" or ")
    assert 1 <= len(offered) <= 2
    for near in map(int, offered):
        assert abs(near - width) < SIZE_MULTIPLE
        assert a_request(width=near).width == near


@given(requests, st.data())
def test_each_image_alone_is_asked_for_with_a_seed_of_its_own(
    request: GenerationRequest, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, request.count - 1))
    alone = request.alone(index)
    assert alone.count == 1
    assert alone.seed == (request.seed + index) % 2**32
    assert alone.alone(0) == alone
    assert dataclasses.replace(alone, seed=request.seed, count=request.count) == request


def test_seeds_wrap_around() -> None:
    request = a_request(seed=SEED_MAX - 1, count=4)
    assert [request.seed_of(index) for index in range(4)] == [SEED_MAX - 1, SEED_MAX, 0, 1]


def test_a_variation_is_checked_like_any_request() -> None:
    with pytest.raises(InvalidRequest):
        dataclasses.replace(a_request(), steps=0)


class TestPixels:
    @pytest.mark.parametrize("size", [0, 11, 13])
    def test_a_picture_has_three_bytes_a_pixel(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"{size} bytes are no 2x2 RGB image"):
            Pixels(2, 2, bytes(size))

    def test_the_hash_knows_the_shape(self) -> None:
        assert Pixels(2, 3, bytes(18)).sha256 != Pixels(3, 2, bytes(18)).sha256
        expected = hashlib.sha256(b"2x3:" + bytes(18)).hexdigest()
        assert Pixels(2, 3, bytes(18)).sha256 == expected

    def test_a_log_line_is_not_full_of_pixels(self) -> None:
        assert len(repr(gradient())) < 100


class TestProgress:
    @given(st.integers(1, STEPS_MAX), st.data())
    def test_percent_reaches_100_only_at_the_end(self, steps: int, data: st.DataObject) -> None:
        step = data.draw(st.integers(0, steps))
        percent = Progress(step, steps).percent
        assert 0 <= percent <= 100
        assert (percent == 100) is (step == steps)


def test_the_plain_values_need_neither_torch_nor_discord() -> None:
    code = (
        "import sys, generation, generation.values.request;"
        "import generation.images.pillow, generation.images.png;"
        "print([name for name in ('torch', 'discord', 'diffusers') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "[]"
