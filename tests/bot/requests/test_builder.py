from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bot.config import Settings
from bot.requests.builder import RequestBuilder
from bot.requests.limits import Limits, OperatorLimits
from bot.requests.options import RequestOptions
from bot.requests.reference import ImageReference
from generation.errors import InvalidRequest
from generation.models.locate import locate
from generation.values.request import COUNT_MAX, SEED_MAX

from ...generation.examples import EDGE, a_recipe, gradient
from ...generation.sd2 import make_sd2


def builder_for(settings: Settings) -> RequestBuilder:
    profile = locate("starter")
    return RequestBuilder(OperatorLimits(settings, profile), profile)


@pytest.fixture(scope="module")
def builder() -> RequestBuilder:
    return builder_for(Settings(max_steps=50, max_size=512))


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


def test_options_that_are_left_out_get_the_model_s_defaults(builder: RequestBuilder) -> None:
    request = builder.imagine(RequestOptions(prompt="owl"), guild_id=None)
    assert (request.width, request.height, request.steps) == (EDGE, EDGE, 25)
    assert (request.guidance_scale, request.scheduler, request.count) == (2.5, "ddim", 1)
    assert request.source is None


def test_the_operator_s_defaults_come_before_the_model_s() -> None:
    builder = builder_for(Settings(steps=9, guidance_scale=3.5))
    request = builder.imagine(RequestOptions(prompt="owl"), guild_id=None)
    assert (request.steps, request.guidance_scale) == (9, 3.5)


def test_guidance_is_rescaled_as_the_model_says_unless_a_person_says_otherwise() -> None:
    profile = dataclasses.replace(locate("starter"), default_guidance_rescale=0.7)
    builder = RequestBuilder(OperatorLimits(Settings(), profile), profile)
    for chosen, rescale in ((None, 0.7), (0.0, 0.0), (1.0, 1.0)):
        options = RequestOptions(prompt="owl", guidance_rescale=chosen)
        assert builder.imagine(options, guild_id=None).guidance_rescale == rescale
    plain = builder_for(Settings()).imagine(RequestOptions(prompt="owl"), guild_id=None)
    assert plain.guidance_rescale is None


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
        builder.imagine(options, guild_id=None)


def test_a_variation_takes_no_more_steps_than_are_allowed_by_now(builder: RequestBuilder) -> None:
    picture = Image.new("RGB", (EDGE, EDGE))
    wanted = {30: 30, 50: 50, 80: 50}
    for steps, expected in wanted.items():
        recipe = a_recipe(steps=steps)
        assert builder.variation(recipe, picture, RequestOptions(), guild_id=None).steps == expected
    with pytest.raises(InvalidRequest, match="At most 50 steps"):
        builder.variation(a_recipe(steps=30), picture, RequestOptions(steps=80), guild_id=None)


def test_a_rerun_costs_no_more_than_is_allowed_by_now() -> None:
    before = builder_for(Settings())
    now = builder_for(Settings(max_steps=20, max_size=EDGE))
    again = now.rerun(
        before.imagine(RequestOptions(prompt="owl", steps=150, count=4), guild_id=None),
        guild_id=None,
    )
    assert (again.steps, again.count, again.prompt) == (20, 4, "owl")
    with pytest.raises(InvalidRequest, match=f"width of at most {EDGE} is allowed here"):
        now.rerun(
            before.imagine(RequestOptions(prompt="owl", width=2 * EDGE), guild_id=None),
            guild_id=None,
        )


@pytest.mark.parametrize(("most", "size"), [(100, 96), (96, 96), (EDGE, EDGE), (256, EDGE)])
def test_the_default_size_is_within_the_limit(most: int, size: int) -> None:
    builder = builder_for(Settings(max_size=most))
    request = builder.imagine(RequestOptions(prompt="owl"), guild_id=None)
    assert (request.width, request.height) == (size, size)


@given(st.integers(1, 4_000), st.integers(1, 4_000))
def test_a_picture_of_any_shape_can_be_varied(width: int, height: int) -> None:
    builder = builder_for(Settings())
    request = builder.similar(
        Image.new("1", (width, height)), RequestOptions(prompt="owl"), guild_id=None
    )
    assert request.source is not None
    assert (request.source.width, request.source.height) == (request.width, request.height)
    assert request.width % 8 == request.height % 8 == 0
    assert request.scheduler == "ddim"


def editor() -> RequestBuilder:
    """Return a builder for a model that edits, with sides of multiples of 16."""
    profile = dataclasses.replace(
        locate("starter"),
        native_size=512,
        default_max_size=1_024,
        size_multiple=16,
        most_references=3,
    )
    return RequestBuilder(OperatorLimits(Settings(), profile), profile)


def test_an_edit_has_the_shape_of_its_first_reference_in_the_model_s_own_size() -> None:
    wide, tall = Image.new("RGB", (1_000, 500)), Image.new("RGB", (300, 600))
    request = editor().edit([wide, tall], RequestOptions(prompt="swap them"), guild_id=None)
    assert (request.width, request.height) == (720, 368)
    sizes = [(picture.width, picture.height) for picture in request.references]
    assert sizes == [(992, 496), (288, 592)]
    assert (request.source, request.strength) == (None, None)
    sized = RequestOptions(prompt="swap them", width=64, height=96)
    request = editor().edit([wide], sized, guild_id=None)
    assert (request.width, request.height) == (64, 96)


def test_more_references_than_the_model_reads_are_refused(builder: RequestBuilder) -> None:
    pictures, options = [Image.new("RGB", (64, 64))] * 4, RequestOptions(prompt="mix")
    assert len(editor().edit(pictures[:3], options, guild_id=None).references) == 3
    with pytest.raises(InvalidRequest, match="reads at most 3 reference pictures; you gave 4"):
        editor().edit(pictures, options, guild_id=None)
    with pytest.raises(InvalidRequest, match="starter cannot edit by instruction; use a model"):
        builder.edit(pictures[:1], options, guild_id=None)
    edit = editor().edit(pictures[:1], options, guild_id=None)
    assert editor().rerun(edit, guild_id=None).references == edit.references
    with pytest.raises(InvalidRequest, match="starter cannot edit by instruction"):
        builder.rerun(edit, guild_id=None)


def test_a_distilled_model_is_asked_for_the_guidance_scale_that_counts() -> None:
    profile = dataclasses.replace(locate("starter"), is_guided=False)
    builder = RequestBuilder(OperatorLimits(Settings(guidance_scale=9.0), profile), profile)
    request = builder.imagine(RequestOptions(prompt="owl", guidance_scale=5.0), guild_id=None)
    assert request.guidance_scale == 1.0
    guided = dataclasses.replace(request, guidance_scale=5.0)
    assert builder.rerun(guided, guild_id=None).guidance_scale == 1.0


def test_a_consistency_model_reads_the_guidance_scale_without_an_unconditional_prediction(
    tmp_path: Path,
) -> None:
    make_sd2(tmp_path / "lcm", time_cond_proj_dim=16)
    profile = locate(str(tmp_path / "lcm"))
    assert not profile.is_guided
    builder = RequestBuilder(OperatorLimits(Settings(), profile), profile)
    request = builder.imagine(RequestOptions(prompt="owl"), guild_id=None)
    assert request.guidance_scale == 8.5
    chosen = builder.imagine(RequestOptions(prompt="owl", guidance_scale=5.0), guild_id=None)
    assert chosen.guidance_scale == builder.rerun(chosen, guild_id=None).guidance_scale == 5.0


def test_a_variation_by_another_model_has_its_own_defaults_and_a_size_that_fits() -> None:
    profile = dataclasses.replace(
        locate("starter"),
        native_size=512,
        default_max_size=1_024,
        size_multiple=16,
        default_steps=4,
        default_guidance_scale=1.5,
    )
    builder = RequestBuilder(OperatorLimits(Settings(), profile), profile)
    recipe = a_recipe(width=520, height=520, steps=30, guidance_scale=9.0, model="another")
    picture, nothing = Image.new("RGB", (520, 520)), RequestOptions()
    made = builder.variation(recipe, picture, nothing, guild_id=None)
    assert (made.width, made.height, made.steps, made.guidance_scale) == (512, 512, 4, 1.5)
    typed = RequestOptions(steps=9, guidance_scale=3.0)
    made = builder.variation(recipe, picture, typed, guild_id=None)
    assert (made.steps, made.guidance_scale) == (9, 3.0)
    fits = dataclasses.replace(recipe, width=640, height=320)
    made = builder.variation(fits, picture, nothing, guild_id=None)
    assert (made.width, made.height) == (640, 320)
    own = dataclasses.replace(recipe, model=profile.name)
    made = builder.variation(own, picture, nothing, guild_id=None)
    assert (made.width, made.steps, made.guidance_scale) == (512, 30, 9.0)


def test_a_variation_of_an_edit_has_its_references_while_it_has_its_instruction(
    builder: RequestBuilder,
) -> None:
    picture, references = Image.new("RGB", (512, 512)), (gradient(), gradient(96, 64))
    recipe = a_recipe(prompt="make it winter", width=512, height=512)
    made = editor().variation(
        recipe, picture, RequestOptions(), guild_id=None, references=references
    )
    assert made.references == references
    assert made.source is not None
    options = RequestOptions(prompt="an owl")
    made = editor().variation(recipe, picture, options, guild_id=None, references=references)
    assert made.references == ()
    with pytest.raises(InvalidRequest, match=r"starter cannot edit; add a prompt"):
        builder.variation(recipe, picture, RequestOptions(), guild_id=None, references=references)
    assert builder.variation(recipe, picture, options, guild_id=None, references=references)


def test_seeds_that_nobody_chose_differ_and_fit(builder: RequestBuilder) -> None:
    request = builder.imagine(RequestOptions(prompt="owl"), guild_id=None)
    seeds = {builder.rerun(request, guild_id=None).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed <= SEED_MAX for seed in seeds)


class ByServer:
    """Limits of which one server has its own."""

    def __init__(self, own: dict[int | None, Limits], others: Limits) -> None:
        self._own = own
        self._others = others

    def limits_for(self, guild_id: int | None) -> Limits:
        return self._own.get(guild_id, self._others)


def test_each_server_has_its_own_limits_and_defaults() -> None:
    profile = locate("starter")
    usual = OperatorLimits(Settings(), profile).limits_for(None)
    own = dataclasses.replace(
        usual, max_steps=12, max_size=96, default_steps=6, default_size=96, default_strength=0.3
    )
    builder = RequestBuilder(ByServer({7: own}, usual), profile)
    owl, picture = RequestOptions(prompt="owl"), Image.new("RGB", (EDGE, EDGE))
    here, elsewhere = (builder.imagine(owl, guild_id=guild_id) for guild_id in (7, 8))
    assert (here.steps, here.width) == (6, 96)
    assert (elsewhere.steps, elsewhere.width) == (usual.default_steps, usual.default_size)
    assert builder.similar(picture, owl, guild_id=7).strength == 0.3
    assert builder.fit(owl, guild_id=7).most == 96
    assert builder.rerun(dataclasses.replace(here, steps=40), guild_id=7).steps == 12
    many = RequestOptions(prompt="owl", steps=13)
    assert builder.imagine(many, guild_id=8).steps == 13
    with pytest.raises(InvalidRequest, match="At most 12 steps"):
        builder.imagine(many, guild_id=7)
