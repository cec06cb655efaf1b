"""What a choice of a scheduler and a spacing becomes in a request."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from PIL import Image

from bot.config import Settings
from bot.requests.builder import RequestBuilder
from bot.requests.limits import OperatorLimits
from bot.requests.options import RequestOptions
from generation.catalog.profile import ModelProfile
from generation.errors import InvalidRequest
from generation.schedulers.fitting import fitting

from ...generation.examples import STARTER, a_recipe, a_request

FLOW: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
FLOWING = dataclasses.replace(
    STARTER, scheduler_config=FLOW, schedulers=fitting(FLOW), default_scheduler="euler"
)
PICTURE = Image.new("RGB", (64, 64))


def builder_for(profile: ModelProfile = STARTER, **settings: Any) -> RequestBuilder:
    return RequestBuilder(OperatorLimits(Settings(**settings), profile), profile)


def chosen(profile: ModelProfile = STARTER, **options: Any) -> tuple[str, str | None]:
    request = builder_for(profile).imagine(RequestOptions(prompt="owl", **options), guild_id=None)
    return request.scheduler, request.spacing


def test_without_a_choice_the_models_own_is_taken() -> None:
    assert chosen() == ("ddim", None)
    assert chosen(FLOWING) == ("euler", None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scheduler": "heun"}, ("heun", None)),
        ({"spacing": "trailing"}, ("ddim", "trailing")),
        ({"scheduler": "DPM++ 2M", "spacing": "beta"}, ("dpmpp_2m", "beta")),
        ({"scheduler": "DPM++ 2M Karras"}, ("dpmpp_2m", "karras")),
        ({"scheduler": "DPM++ 2M Karras", "spacing": "beta"}, ("dpmpp_2m", "beta")),
    ],
    ids=str,
)
def test_a_choice_by_any_name_is_what_is_asked_for(
    options: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    assert chosen(**options) == expected


@pytest.mark.parametrize(
    ("profile", "options", "sentence"),
    [
        (FLOWING, {"scheduler": "nosuch"}, "choose one of euler, heun."),
        (
            FLOWING,
            {"scheduler": "ddim"},
            "does not fit this model; choose one of euler, heun.",
        ),
        (STARTER, {"scheduler": "ddpm karras"}, "The scheduler ddpm has no spacing karras"),
        (STARTER, {"scheduler": "lcm", "steps": 51}, "takes at most 50 steps; you asked for 51."),
    ],
)
def test_what_does_not_fit_is_refused_before_it_waits(
    profile: ModelProfile, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chosen(profile, **options)
    assert sentence in str(refused.value)


def test_a_person_who_chose_no_steps_gets_no_more_than_the_scheduler_takes() -> None:
    builder = builder_for(steps=80, max_steps=100)
    steps = {
        name: builder.imagine(RequestOptions(prompt="owl", scheduler=name), guild_id=None).steps
        for name in ("ddim", "lcm")
    }
    assert steps == {"ddim": 80, "lcm": 50}


def test_a_variation_keeps_the_scheduler_of_its_picture() -> None:
    recipe = a_recipe(scheduler="dpmpp_2m", spacing="karras")
    made = builder_for().variation(recipe, PICTURE, RequestOptions(), guild_id=None)
    assert (made.scheduler, made.spacing) == ("dpmpp_2m", "karras")


@pytest.mark.parametrize(
    ("scheduler", "spacing", "expected"),
    [
        ("ddim", None, ("euler", None)),
        ("dpmpp_2m", "karras", ("euler", None)),
        ("heun", "trailing", ("heun", None)),
        ("heun", "karras", ("heun", "karras")),
    ],
)
def test_what_another_model_made_is_made_again_with_what_fits_this_one(
    scheduler: Any, spacing: Any, expected: tuple[str, str | None]
) -> None:
    builder = builder_for(FLOWING)
    recipe = a_recipe(scheduler=scheduler, spacing=spacing)
    varied = builder.variation(recipe, PICTURE, RequestOptions(), guild_id=None)
    assert (varied.scheduler, varied.spacing) == expected
    again = builder.rerun(a_request(scheduler=scheduler, spacing=spacing), guild_id=None)
    assert (again.scheduler, again.spacing) == expected


def test_a_scheduler_that_is_gone_does_not_spoil_a_variation() -> None:
    made = builder_for().variation(
        a_recipe(scheduler="plms"), PICTURE, RequestOptions(), guild_id=None
    )
    assert made.scheduler == "ddim"
