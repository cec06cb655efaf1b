"""Which model made a picture, after the operator changed the list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from bot.config import Settings
from bot.listing import ListedModel
from bot.requests.models import ModelOffer, NoSuchModel, offered

from ...generation.examples import STARTER, a_recipe

NEW, OLD = "11" * 32, "22" * 32
HASHES = {"SDXL": NEW, "SDXL of last year": OLD}
RECIPE = a_recipe(model="sdxl-folder", model_sha256=OLD)


def offer(*names: str, folders: Mapping[str, str] = MappingProxyType({})) -> ModelOffer:
    settings = Settings(models=tuple(ListedModel(name=name) for name in names))
    profiles = {
        name: dataclasses.replace(STARTER, name=folders.get(name, "another-folder"))
        for name in names
    }
    models = {name: offered(settings, settings.named(name), profiles[name]) for name in names}
    return ModelOffer(models, {}, default=names[0])


def test_the_name_decides_while_no_hash_is_known() -> None:
    models = offer("SDXL", "SDXL of last year")
    assert models.maker_of("sdxl of last year", RECIPE).name == "SDXL of last year"
    assert models.maker_of("SDXL", RECIPE).name == "SDXL"


def test_the_hash_finds_weights_that_have_another_name_now() -> None:
    models = offer("SDXL", "SDXL of last year")
    assert models.maker_of("SDXL", RECIPE, HASHES.get).name == "SDXL of last year"
    assert models.maker_of("gone", RECIPE, HASHES.get).name == "SDXL of last year"


def test_of_two_names_for_the_same_weights_the_jobs_own_is_taken() -> None:
    models = offer("SDXL", "SDXL of last year")
    assert models.maker_of("SDXL", RECIPE, lambda _: OLD).name == "SDXL"


def test_new_weights_under_the_old_name_are_used_if_the_old_ones_are_gone() -> None:
    assert offer("SDXL").maker_of("SDXL", RECIPE, HASHES.get).name == "SDXL"


def test_a_job_of_before_the_list_is_for_the_default_model() -> None:
    assert offer("SDXL", "B").maker_of(None, RECIPE, HASHES.get).name == "SDXL"


def test_a_job_of_before_the_list_is_for_the_model_that_made_its_picture() -> None:
    models = offer("SDXL", "SDXL of last year", "C")
    assert models.maker_of(None, RECIPE, HASHES.get).name == "SDXL of last year"
    assert models.maker_of(None, RECIPE, lambda _: OLD).name == "SDXL"
    by_name = offer("SDXL", "B", folders={"B": "sdxl-folder"})
    assert by_name.maker_of(None, RECIPE).name == "B"
    assert by_name.maker_of(None).name == "SDXL"
    both = offer("SDXL", "B", folders={"B": "sdxl-folder", "SDXL": "sdxl-folder"})
    assert both.maker_of(None, RECIPE).name == "SDXL"


@pytest.mark.parametrize(
    ("profile", "general", "own", "said"),
    [
        ({"default_steps": 4}, {"steps": 30}, {}, ["steps is 30 for all models, also for Turbo"]),
        ({"default_steps": 4}, {"steps": 30}, {"steps": 4}, []),
        ({"default_steps": 4}, {"steps": 4}, {}, []),
        ({"default_steps": 30}, {"steps": 50}, {}, []),
        (
            {"default_steps": 4, "default_guidance_scale": 1.0},
            {"guidance_scale": 7.5},
            {},
            ["guidance_scale is 7.5 for all models, also for Turbo"],
        ),
        (
            {"default_steps": 4, "default_guidance_scale": 1.0, "is_guided": False},
            {"guidance_scale": 7.5},
            {},
            [],
        ),
    ],
)
def test_a_setting_for_all_models_that_hardly_suits_one_is_said_at_start(
    caplog: pytest.LogCaptureFixture,
    profile: dict[str, Any],
    general: dict[str, Any],
    own: dict[str, Any],
    said: list[str],
) -> None:
    settings = Settings(models=(ListedModel(name="Turbo", **own),), **general)
    offered(settings, settings.named("Turbo"), dataclasses.replace(STARTER, **profile))
    sentences = [record.getMessage() for record in caplog.records]
    assert len(sentences) == len(said)
    assert all(sentence.startswith(start) for sentence, start in zip(sentences, said, strict=True))


def test_a_model_that_is_gone_is_missed() -> None:
    with pytest.raises(NoSuchModel, match="was made by the model gone, which is not here any more"):
        offer("SDXL").maker_of("gone", a_recipe(model="x"), HASHES.get)
