from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bot.config import Settings
from bot.requests.builder import RequestBuilder
from bot.requests.options import RequestOptions
from bot.requests.reference import ImageReference
from generation.catalog.locate import locate
from generation.errors import InvalidRequest
from generation.values.request import COUNT_MAX, SEED_MAX

from ...generation.examples import EDGE, a_recipe


@pytest.fixture(scope="module")
def builder() -> RequestBuilder:
    return RequestBuilder(Settings(max_steps=50, max_size=512), locate("starter"))


@given(st.integers(0, 10**15 - 1), st.integers(1, COUNT_MAX), st.sampled_from("-./# "))
def test_every_way_to_write_a_picture_is_read(job: int, number: int, between: str) -> None:
    wanted = ImageReference(job, number)
    assert ImageReference.parse(str(wanted)) == wanted
    assert ImageReference.parse(f" #{job}{between}{number} ") == wanted
    assert ImageReference.parse(f"{job}") == ImageReference(job, 1)


@given(st.text())
def test_anything_typed_is_a_picture_or_one_sentence(text: str) -> None:
    said = None
    try:
        reference = ImageReference.parse(text)
    except InvalidRequest as error:
        said = error
    else:
        assert ImageReference.parse(str(reference)) == reference
    assert said is None or (said.field == "image" and len(str(said).splitlines()) == 1)


def test_what_is_left_open_gets_the_model_s_defaults(builder: RequestBuilder) -> None:
    request = builder.imagine(RequestOptions(prompt="owl"))
    assert (request.width, request.height, request.steps) == (EDGE, EDGE, 25)
    assert (request.guidance_scale, request.scheduler, request.count) == (2.5, "ddim", 1)
    assert request.source is None


def test_the_operator_s_defaults_come_before_the_model_s() -> None:
    builder = RequestBuilder(Settings(steps=9, guidance_scale=3.5), locate("starter"))
    request = builder.imagine(RequestOptions(prompt="owl"))
    assert (request.steps, request.guidance_scale) == (9, 3.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            RequestOptions(prompt="owl", steps=51),
            "At most 50 steps are allowed here; you asked for 51",
        ),
        (
            RequestOptions(prompt="owl", width=520),
            "at most 512 is allowed here with this model; you asked for 520",
        ),
        (
            RequestOptions(prompt="owl", height=520),
            "height of at most 512 is allowed here",
        ),
        (RequestOptions(), "The prompt is empty"),
    ],
    ids=str,
)
def test_the_operator_s_limits_hold(
    builder: RequestBuilder, options: RequestOptions, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        builder.imagine(options)


def test_a_variation_takes_no_more_steps_than_are_allowed_by_now(builder: RequestBuilder) -> None:
    picture = Image.new("RGB", (EDGE, EDGE))
    wanted = {30: 30, 50: 50, 80: 50}
    for steps, expected in wanted.items():
        recipe = a_recipe(steps=steps)
        assert builder.variation(recipe, picture, RequestOptions()).steps == expected
    with pytest.raises(InvalidRequest, match="At most 50 steps"):
        builder.variation(a_recipe(steps=30), picture, RequestOptions(steps=80))


def test_a_rerun_costs_no_more_than_is_allowed_by_now() -> None:
    before = RequestBuilder(Settings(), locate("starter"))
    now = RequestBuilder(Settings(max_steps=20, max_size=EDGE), locate("starter"))
    again = now.rerun(before.imagine(RequestOptions(prompt="owl", steps=150, count=4)))
    assert (again.steps, again.count, again.prompt) == (20, 4, "owl")
    with pytest.raises(InvalidRequest, match=f"width of at most {EDGE} is allowed here"):
        now.rerun(before.imagine(RequestOptions(prompt="owl", width=2 * EDGE)))


@pytest.mark.parametrize(("most", "size"), [(100, 96), (96, 96), (EDGE, EDGE), (256, EDGE)])
def test_who_leaves_the_size_open_gets_one_that_is_allowed(most: int, size: int) -> None:
    builder = RequestBuilder(Settings(max_size=most), locate("starter"))
    request = builder.imagine(RequestOptions(prompt="owl"))
    assert (request.width, request.height) == (size, size)


@given(st.integers(1, 4_000), st.integers(1, 4_000))
def test_a_picture_of_any_shape_can_be_varied(width: int, height: int) -> None:
    builder = RequestBuilder(Settings(), locate("starter"))
    request = builder.similar(Image.new("1", (width, height)), RequestOptions(prompt="owl"))
    assert request.source is not None
    assert (request.source.width, request.source.height) == (request.width, request.height)
    assert request.width % 8 == request.height % 8 == 0
    assert request.scheduler == "ddim"


def test_seeds_that_nobody_chose_differ_and_fit(builder: RequestBuilder) -> None:
    request = builder.imagine(RequestOptions(prompt="owl"))
    seeds = {builder.rerun(request).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed <= SEED_MAX for seed in seeds)
