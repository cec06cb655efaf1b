"""LoRAs in requests: from an option, from the prompt, and again for a variation or a rerun."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bot.config import Settings
from bot.engines import inversion_library, lora_library
from bot.listing import ListedLora
from bot.requests.builder import RequestBuilder
from bot.requests.limits import OperatorLimits
from bot.requests.options import RequestOptions
from generation.catalog.addons.loras import LoraLibrary
from generation.catalog.memory.savings import Savings
from generation.catalog.profile import ModelProfile
from generation.errors import InvalidRequest, LoraError
from generation.models.locate import locate
from generation.values.inversion import Inversion
from generation.values.lora import Lora, LoraTag
from generation.values.recipe import UsedLora
from generation.values.request import GenerationRequest

from ...generation import loras
from ...generation.examples import STARTER, a_recipe, a_request


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
    assert same.read_prompt == "a cat"
    options = RequestOptions(prompt="a dog <lora:wash:0.3>, <lora:neon:2>")
    other = builder.variation(recipe, picture, options, guild_id=None)
    assert set(other.loras) == {Lora("ink", 0.8), Lora("wash", 0.3), Lora("Neon", 2.0)}
    options = RequestOptions(loras=(LoraTag("wash", None),))
    others = builder.variation(recipe, picture, options, guild_id=None)
    assert others.loras == (Lora("wash", 1.0),)


def test_a_picture_from_before_there_were_loras_can_be_varied(builder: RequestBuilder) -> None:
    recipe = a_recipe(prompt="a cat <lora:gone:0.8> <lora:ink:1>, at night")
    made = builder.variation(recipe, Image.new("RGB", (64, 64)), RequestOptions(), guild_id=None)
    assert (made.prompt, made.loras) == ("a cat, at night", ())


def test_of_a_prompt_that_nobody_typed_only_loras_that_can_be_used_stay(
    builder: RequestBuilder,
) -> None:
    prompt = "a cat <lora:gone:0.8>, <lora:INK:0.5> <lora:wash:0.5:lbw=1> <lora:neon:99>, night"
    assert builder.loras.of_stored(prompt) == "a cat, <lora:INK:0.5>, night"
    assert builder.loras.of_stored("a  cat <lora:ink>") == "a  cat <lora:ink>"


def test_the_folder_is_read_once_and_not_at_all_for_too_many_loras(
    builder: RequestBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, files = list[LoraLibrary](), LoraLibrary._files

    def watched(library: LoraLibrary) -> Iterator[Path]:
        if library.kind == "LoRA":
            read.append(library)
        return files(library)

    monkeypatch.setattr(LoraLibrary, "_files", watched)

    def ask(*names: str) -> GenerationRequest:
        prompt = "a cat" + "".join(f" <lora:{name}>" for name in names)
        return builder.imagine(RequestOptions(prompt=prompt), guild_id=None)

    with pytest.raises(InvalidRequest, match="There are 80 LoRAs; use at most 8"):
        ask(*(f"lora{number}" for number in range(80)))
    ask()
    assert read == []
    ask("ink", "wash", "neon", *["ink"] * 20)
    assert len(read) == 1


def test_a_rerun_has_the_same_loras(builder: RequestBuilder) -> None:
    first = builder.imagine(RequestOptions(prompt="a cat <lora:ink:0.8>"), guild_id=None)
    again = builder.rerun(first, guild_id=None)
    assert (again.loras, again.read_prompt) == (first.loras, "a cat")


def test_in_a_request_from_before_there_were_loras_a_tag_is_text(builder: RequestBuilder) -> None:
    old = a_request(prompt="a cat <lora:ink:0.8>")
    assert builder.rerun(old, guild_id=None).loras == ()
    assert "lora" in str(builder.rerun(old, guild_id=None).read_prompt)


def width_of(profile: ModelProfile) -> int:
    return int(profile.inversion_widths["text_encoder"])


def embedding(path: Path, width: int) -> None:
    loras.save({"emb_params": loras.torch.zeros(2, width)}, path)


def builder_for(folder: Path, profile: ModelProfile) -> RequestBuilder:
    settings = Settings(embedding_folder=folder)
    limits = OperatorLimits(settings, profile)
    return RequestBuilder(limits, profile, inversions=inversion_library(settings))


def named(folder: Path, prompt: str, profile: ModelProfile = STARTER) -> list[str]:
    request = builder_for(folder, profile).imagine(RequestOptions(prompt=prompt), guild_id=None)
    return [inversion.name for inversion in request.inversions]


def test_a_word_that_names_a_file_for_another_model_is_a_word(tmp_path: Path) -> None:
    embedding(tmp_path / "red cat.safetensors", 77)
    embedding(tmp_path / "cat.safetensors", width_of(STARTER))
    embedding(tmp_path / "owl.safetensors", 77)
    (tmp_path / "moon.safetensors").write_bytes(b"broken")
    assert named(tmp_path, "a red cat, an owl, the moon") == ["cat"]
    embedding(tmp_path / "owl.safetensors", width_of(STARTER))
    assert named(tmp_path, "an owl") == ["owl"]


@pytest.mark.parametrize(
    "changes",
    [
        {"inversion_widths": {}},
        {"savings": Savings(offload="model")},
        {"savings": Savings(quantize="int8")},
    ],
    ids=str,
)
def test_embeddings_are_words_for_a_model_that_reads_none(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    embedding(tmp_path / "cat.safetensors", width_of(STARTER))
    assert named(tmp_path, "a cat") == ["cat"]
    assert named(tmp_path, "a cat", dataclasses.replace(STARTER, **changes)) == []


def test_embeddings_are_those_that_the_prompts_name(tmp_path: Path) -> None:
    for name in ("EasyNegative", "toy"):
        embedding(tmp_path / f"{name}.safetensors", width_of(STARTER))
    builder = builder_for(tmp_path, STARTER)
    options = RequestOptions(prompt="a cat", negative_prompt="easynegative, dark")
    request = builder.imagine(options, guild_id=None)
    assert request.inversions == (Inversion("EasyNegative"),)
    assert builder.rerun(request, guild_id=None).inversions == request.inversions
    assert builder.imagine(RequestOptions(prompt="a toybox"), guild_id=None).inversions == ()
