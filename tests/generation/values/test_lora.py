"""LoRAs as a prompt names them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.errors import InvalidRequest
from generation.values.lora import LORA_WEIGHT_MAX, Lora, LoraTag, merged, split_tags

from ..examples import a_request

NAMES = st.text(st.characters(exclude_characters="<>:\0", codec="utf-8"), min_size=1).filter(
    lambda name: name == name.strip() and name != ""
)
PIECES = st.sampled_from([*"<>: lora.8-\0", "<lora:", "<lora:a:1>", "cat"])
PROMPTS = st.lists(PIECES, max_size=40).map("".join)


def test_a_tag_is_taken_out_with_its_weight() -> None:
    text, tags = split_tags("a cat, <lora:Ink wash:0.8> by night<lora:b>")
    assert text == "a cat, by night"
    assert tags == (LoraTag("Ink wash", "0.8"), LoraTag("b", None))
    assert [tag.lora(0.5) for tag in tags] == [Lora("Ink wash", 0.8), Lora("b", 0.5)]


@given(st.text().filter(lambda text: "<lora:" not in text.lower()))
def test_text_without_the_syntax_is_untouched(text: str) -> None:
    assert split_tags(text) == (text, ())


@given(PROMPTS | st.text())
def test_parsing_ends_and_never_raises(prompt: str) -> None:
    text, tags = split_tags(prompt)
    assert len(text) <= len(prompt)
    assert bool(tags) == (text != prompt)
    assert all(tag.name for tag in tags)


@given(NAMES, st.floats(-LORA_WEIGHT_MAX, LORA_WEIGHT_MAX), st.text("abc ,."), st.text("abc ,."))
def test_a_written_lora_is_read_again(name: str, weight: float, before: str, after: str) -> None:
    text, (tag,) = split_tags(f"{before}<lora:{name}:{weight!r}>{after}")
    assert (tag.name, float(str(tag.weight))) == (name, weight)
    assert "".join(text.split()) == "".join(f"{before}{after}".split())


@pytest.mark.parametrize("weight", ["much", "nan", "", "0,8", "1e9", "-11"])
def test_a_weight_that_is_none_is_refused_in_one_sentence(weight: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        LoraTag("ink", weight).lora()
    assert "ink" in str(refused.value)
    assert str(refused.value).count(". ") == 0


@pytest.mark.parametrize("weight", [math.nan, math.inf, 10.5])
def test_a_request_has_no_weight_out_of_range(weight: float) -> None:
    with pytest.raises(InvalidRequest, match="weight of the LoRA ink"):
        Lora("ink", weight)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("ink", LoraTag("ink", None)),
        ("ink:0.8", LoraTag("ink", "0.8")),
        ("a:b:-1", LoraTag("a:b", "-1")),
        ("a:b", LoraTag("a:b", None)),
        (":1", LoraTag(":1", None)),
    ],
)
def test_an_option_is_a_name_and_perhaps_a_weight(text: str, tag: LoraTag) -> None:
    assert LoraTag.of(text) == tag


def test_of_two_with_one_name_the_later_counts() -> None:
    assert merged([Lora("a", 1.0), Lora("b"), Lora("A", 0.5)]) == (Lora("A", 0.5), Lora("b"))


def test_a_request_has_few_loras_and_each_once() -> None:
    with pytest.raises(InvalidRequest, match="at most 8"):
        a_request(loras=tuple(Lora(f"lora {number}") for number in range(9)))
    with pytest.raises(InvalidRequest, match="twice"):
        a_request(loras=(Lora("ink"), Lora("Ink")))
