"""Which model made a picture, after the operator changed the list."""

from __future__ import annotations

import dataclasses

import pytest

from bot.config import Settings
from bot.listing import ListedModel
from bot.requests.models import ModelOffer, NoSuchModel, offered

from ...generation.examples import STARTER, a_recipe

NEW, OLD = "11" * 32, "22" * 32
HASHES = {"SDXL": NEW, "SDXL of last year": OLD}
RECIPE = a_recipe(model="sdxl-folder", model_sha256=OLD)


def offer(*names: str) -> ModelOffer:
    settings = Settings(models=tuple(ListedModel(name=name) for name in names))
    profile = dataclasses.replace(STARTER, name="another-folder")
    models = {name: offered(settings, settings.named(name), profile) for name in names}
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


def test_a_model_that_is_gone_is_missed() -> None:
    with pytest.raises(NoSuchModel, match="was made by the model gone, which is not here any more"):
        offer("SDXL").maker_of("gone", a_recipe(model="x"), HASHES.get)
