from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.errors import InvalidRequest
from generation.values.recipe import Recipe
from generation.values.request import (
    GenerationRequest,
)

from ..examples import VALUES, a_recipe, gradient
from .test_request import requests


class TestRecipe:
    @given(requests, st.text(st.characters(codec="utf-8"), max_size=50))
    def test_it_comes_back_from_json_as_it_was(
        self, request: GenerationRequest, unread: str
    ) -> None:
        names = (*VALUES, "negative_prompt", "guidance_rescale")
        wanted = {name: getattr(request, name) for name in names}
        recipe = a_recipe(**wanted, unread_prompt=unread)
        again = Recipe.from_json(recipe.to_json())
        assert again == recipe
        assert again.to_json() == recipe.to_json()
        assert again.request(None) == dataclasses.replace(request, count=1)

    def test_a_recipe_with_a_source_asks_for_it(self) -> None:
        recipe = a_recipe(source_sha256=gradient().sha256, strength=0.6)
        request = recipe.request(gradient())
        assert (request.source, request.strength) == (gradient(), 0.6)
        with pytest.raises(InvalidRequest, match="needs an image"):
            recipe.request(None)

    def test_a_recipe_with_references_comes_back_and_asks_for_them(self) -> None:
        pictures = (gradient(), gradient(96, 64))
        recipe = a_recipe(reference_sha256=[picture.sha256 for picture in pictures])
        again = Recipe.from_json(recipe.to_json())
        assert again == recipe
        assert again.request(None, pictures).references == pictures

    def test_a_recipe_from_before_references_were_recorded_is_read(self) -> None:
        values = json.loads(a_recipe().to_json())
        del values["reference_sha256"]
        assert Recipe.from_json(json.dumps(values)) == a_recipe()

    @pytest.mark.parametrize("text", ["", "{", "null", "[]", "1", '"x"', "[" * 100_000, "\x00"])
    def test_what_is_no_json_object_is_a_value_error(self, text: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - half of them are json's own
            Recipe.from_json(text)

    @pytest.mark.parametrize(
        "name",
        [f.name for f in dataclasses.fields(Recipe) if f.default is dataclasses.MISSING],
    )
    def test_a_field_that_is_missing_is_named(self, name: str) -> None:
        values = json.loads(a_recipe().to_json())
        del values[name]
        with pytest.raises(ValueError, match=f"the recipe lacks {name}$"):
            Recipe.from_json(json.dumps(values))

    def test_a_recipe_from_before_threads_were_recorded_is_read(self) -> None:
        values = json.loads(a_recipe(threads=2).to_json())
        assert Recipe.from_json(json.dumps(values)).threads == 2
        del values["threads"]
        assert Recipe.from_json(json.dumps(values)).threads is None

    @pytest.mark.parametrize("number", [4, 4.0, 4.5])
    def test_a_number_is_written_again_as_it_was(self, number: float) -> None:
        text = a_recipe(guidance_scale=number).to_json()
        assert Recipe.from_json(text).to_json() == text

    def test_a_recipe_of_a_scheduler_that_is_gone_is_read_but_asks_for_nothing(self) -> None:
        values = {**json.loads(a_recipe().to_json()), "scheduler": "plms"}
        recipe = Recipe.from_json(json.dumps(values))
        assert recipe.scheduler == "plms"
        with pytest.raises(InvalidRequest, match="no scheduler 'plms'"):
            recipe.request(None)

    @pytest.mark.parametrize("tile", [0, -8, 100_000])
    def test_a_recipe_cannot_ask_for_any_tile(self, tile: int) -> None:
        values = {**json.loads(a_recipe().to_json()), "decoder_tile": tile}
        with pytest.raises(ValueError, match="decoder tile out of the range 1 to 2048"):
            Recipe.from_json(json.dumps(values))

    @pytest.mark.parametrize("threads", [0, -1, 10_000])
    def test_a_recipe_cannot_ask_for_any_number_of_threads(self, threads: int) -> None:
        values = {**json.loads(a_recipe().to_json()), "threads": threads}
        with pytest.raises(ValueError, match="threads out of the range"):
            Recipe.from_json(json.dumps(values))

    def test_a_field_that_nobody_knows_is_named(self) -> None:
        values = {**json.loads(a_recipe().to_json()), "sampler": "x"}
        with pytest.raises(ValueError, match="the recipe has an unknown field sampler"):
            Recipe.from_json(json.dumps(values))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("prompt", 5),
            ("prompt", None),
            ("negative_prompt", ["dark"]),
            ("seed", "7"),
            ("seed", 7.0),
            ("seed", True),
            ("steps", "abc"),
            ("steps", None),
            ("width", {}),
            ("guidance_scale", "7.5"),
            ("guidance_scale", False),
            ("scheduler", ["ddim"]),
            ("scheduler_settings", 3),
            ("scheduler_settings", None),
            ("scheduler_settings", []),
            ("model", None),
            ("model_sha256", 5),
            ("source_sha256", 5),
            ("strength", "0.5"),
            ("strength", True),
            ("unread_prompt", None),
            ("versions", None),
            ("versions", {"torch": 2}),
            ("pixels_sha256", {}),
            ("threads", "2"),
            ("threads", True),
            ("reference_sha256", "0" * 64),
            ("reference_sha256", [5]),
            ("reference_sha256", {}),
        ],
    )
    def test_a_value_of_a_wrong_type_is_named(self, name: str, value: object) -> None:
        values = {**json.loads(a_recipe().to_json()), name: value}
        with pytest.raises(ValueError, match=f"a value of the wrong type in {name}$"):
            Recipe.from_json(json.dumps(values))

    @given(
        st.dictionaries(
            st.sampled_from([f.name for f in dataclasses.fields(Recipe)]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=2)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=2)
                ),
                max_leaves=4,
            ),
        )
    )
    def test_whatever_the_values_are_it_is_read_or_a_value_error(
        self, changes: dict[str, Any]
    ) -> None:
        values = {**json.loads(a_recipe().to_json()), **changes}
        with suppress(ValueError, InvalidRequest):
            Recipe.from_json(json.dumps(values)).request(None)
