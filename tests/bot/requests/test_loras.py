"""LoRAs in requests: from an option, from the prompt, and again for a variation or a rerun."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bot.config import Settings
from bot.engines import inversion_library, lora_library
from bot.listing import ListedLora
from bot.requests.builder import RequestBuilder
from bot.requests.limits import OperatorLimits
from bot.requests.options import RequestOptions
from generation.errors import InvalidRequest, LoraError
from generation.models.locate import locate
from generation.values.inversion import Inversion
from generation.values.lora import Lora, LoraTag
from generation.values.recipe import UsedLora

from ...generation.examples import a_recipe, a_request


@pytest.fixture
def builder(tmp_path: Path) -> RequestBuilder:
    for name in ("ink", "wash", "Neon"):
        (tmp_path / f"{name}.safetensors").touch()
    settings = Settings(
        lora_folder=tmp_path, loras=(ListedLora(name="Neon", weight=0.6, triggers=("neon glow",)),)
    )
    profile = locate("starter")
    return RequestBuilder(
        OperatorLimits(settings, profile), profile, library=lora_library(settings)
    )


def test_the_model_reads_the_prompt_without_its_loras(builder: RequestBuilder) -> None:
    options = RequestOptions(prompt="a cat <lora:Ink:0.8>, by night 🦊")
    request = builder.imagine(options, guild_id=None)
    assert request.prompt == options.prompt
    assert str(request.read_prompt).startswith("a cat, by night")
    assert request.loras == (Lora("ink", 0.8),)


def test_an_option_and_the_prompt_are_taken_together(builder: RequestBuilder) -> None:
    options = RequestOptions(
        prompt="a cat <lora:ink:0.8>", loras=(LoraTag("ink", "0.1"), LoraTag("neon", None))
    )
    request = builder.imagine(options, guild_id=None)
    assert request.loras == (Lora("ink", 0.8), Lora("Neon", 0.6))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cat <lora:inc:1>", "There is no LoRA 'inc'"),
        ("a cat <lora:ink:much>", "is no number"),
        ("a cat <lora:ink:99>", "from -10 to 10"),
        ("<lora:ink>", "prompt is empty"),
    ],
)
def test_a_mistake_is_one_sentence(builder: RequestBuilder, prompt: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        builder.imagine(RequestOptions(prompt=prompt), guild_id=None)


def test_without_loras_a_tag_says_so() -> None:
    profile = locate("starter")
    builder = RequestBuilder(OperatorLimits(Settings(), profile), profile)
    with pytest.raises(LoraError, match="no other one"):
        builder.imagine(RequestOptions(prompt="a cat <lora:ink>"), guild_id=None)


def used(name: str, weight: float) -> UsedLora:
    return UsedLora(name=name, weight=weight, sha256="0" * 64)


def test_a_variation_keeps_what_an_option_chose_and_reads_a_new_prompt(
    builder: RequestBuilder,
) -> None:
    recipe = a_recipe(
        prompt="a cat <lora:ink:0.8>", loras=[used("ink", 0.8), used("Neon", 0.123456789)]
    )
    picture = Image.new("RGB", (64, 64))
    same = builder.variation(recipe, picture, RequestOptions(), guild_id=None)
    assert set(same.loras) == {Lora("ink", 0.8), Lora("Neon", 0.123456789)}
    options = RequestOptions(prompt="a dog <lora:wash:0.3>")
    other = builder.variation(recipe, picture, options, guild_id=None)
    assert set(other.loras) == {Lora("wash", 0.3), Lora("Neon", 0.123456789)}


def test_a_rerun_has_the_same_loras(builder: RequestBuilder) -> None:
    first = builder.imagine(RequestOptions(prompt="a cat <lora:ink:0.8>"), guild_id=None)
    again = builder.rerun(first, guild_id=None)
    assert (again.loras, again.read_prompt) == (first.loras, "a cat")


def test_in_a_request_from_before_there_were_loras_a_tag_is_text(builder: RequestBuilder) -> None:
    old = a_request(prompt="a cat <lora:ink:0.8>")
    assert builder.rerun(old, guild_id=None).loras == ()
    assert "lora" in str(builder.rerun(old, guild_id=None).read_prompt)


def test_embeddings_are_those_that_the_prompts_name(tmp_path: Path) -> None:
    for name in ("EasyNegative", "toy"):
        (tmp_path / f"{name}.safetensors").touch()
    settings = Settings(embedding_folder=tmp_path)
    profile = locate("starter")
    limits = OperatorLimits(settings, profile)
    builder = RequestBuilder(limits, profile, inversions=inversion_library(settings))
    options = RequestOptions(prompt="a cat", negative_prompt="easynegative, dark")
    request = builder.imagine(options, guild_id=None)
    assert request.inversions == (Inversion("EasyNegative"),)
    assert builder.rerun(request, guild_id=None).inversions == request.inversions
    assert builder.imagine(RequestOptions(prompt="a toybox"), guild_id=None).inversions == ()
