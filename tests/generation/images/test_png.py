from __future__ import annotations

import io
import json
import random
import re
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sd_parsers import ParserManager
from sd_parsers.data import PromptInfo

from generation.errors import MetadataError
from generation.images.pillow import to_image
from generation.images.png import parameters, read_origin, read_png, read_png_outside, write_png
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from generation.values.request import PROMPT_LENGTH, SCHEDULERS

from .. import png
from ..examples import a_recipe, gradient

UNREADABLE = "That file is not a PNG picture that can be read."
NO_RECIPE = (
    "That picture holds no recipe of Imagine Bot; use a file as the bot wrote it, since uploading "
    "or editing a picture can strip its text."
)
# What AUTOMATIC1111 takes the last line apart with (`modules/infotext_utils.py`).
A1111_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

tricky = st.sampled_from(
    [
        "Negative prompt:",
        "\nNegative prompt: dark",
        "\nSteps: 1, Sampler: Euler a, CFG scale: 1, Seed: 1",
        "Steps: 20",
        ": , \"quoted\" 'single' \\ {json: [1]}",
        "🐇👩\u200d👩\u200d👦 中文 é e\u0301",
        "\r\n\t",
        "<lora:x:1>",
        "(word:1.3)",
        "\x7f\x85\u2028\ufeff",
    ]
)
prompts = st.lists(
    tricky | st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=40),
    min_size=1,
    max_size=5,
).map(lambda parts: "".join(parts)[:PROMPT_LENGTH])


def refusal(data: bytes) -> str:
    with pytest.raises(MetadataError) as caught:
        read_png(data)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


def with_chunks(*chunks: png.Chunk) -> bytes:
    """Return a plain picture with chunks before its pixels."""
    written = io.BytesIO()
    to_image(gradient()).save(written, "PNG")
    header, *rest = png.split(written.getvalue())
    return png.join([header, *chunks, *rest])


def with_recipe(text: str) -> bytes:
    return with_chunks(png.text("imagine-bot", text))


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(a_recipe().to_json()), **values})


class TestRoundTrip:
    @given(prompts.filter(str.strip), prompts)
    def test_whatever_was_typed_comes_back(self, prompt: str, negative_prompt: str) -> None:
        recipe = a_recipe(prompt=prompt, negative_prompt=negative_prompt, unread_prompt=prompt)
        pixels, found, text = read_png(write_png(gradient(), recipe))
        assert pixels == gradient()
        assert found == recipe
        assert text == parameters(recipe)

    @pytest.mark.parametrize(
        "changes",
        [
            {"source_sha256": gradient().sha256, "strength": 0.35},
            {"scheduler": "lms", "guidance_scale": 1, "negative_prompt": ""},
            {"model": "somebody/a-model", "threads": 2},
            {"scheduler_settings": {"trained_betas": [0.1, 0.2], "nested": {"a": None}}},
            {"seed": 2**32 - 1, "width": 2_048, "height": 32, "steps": 150},
        ],
        ids=str,
    )
    def test_every_field_comes_back(self, changes: dict[str, Any]) -> None:
        recipe = a_recipe(**changes)
        assert read_png(write_png(gradient(), recipe))[1] == recipe

    def test_an_enlarged_file_carries_the_same_recipe(self) -> None:
        pixels, recipe, _ = read_png(write_png(gradient(), a_recipe(), factor=4))
        assert recipe == a_recipe()
        assert (pixels.width, pixels.height) == (256, 256)
        small = to_image(pixels).resize((64, 64), Image.Resampling.NEAREST)
        assert Pixels(64, 64, small.tobytes()).sha256 == recipe.pixels_sha256

    def test_every_viewer_can_open_the_file(self) -> None:
        with Image.open(io.BytesIO(write_png(gradient(), a_recipe()))) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
            assert image.tobytes() == gradient().rgb

    def test_a_tool_may_have_moved_and_compressed_the_text(self) -> None:
        header, *rest, end = png.split(with_chunks())
        json_text = png.text("imagine-bot", a_recipe().to_json(), compressed=True)
        _, recipe, text = read_png(png.join([header, *rest, json_text, end]))
        assert recipe == a_recipe()
        assert text == ""


class TestOtherReaders:
    def parsed(self, recipe: Recipe) -> PromptInfo:
        file = io.BytesIO(write_png(gradient(), recipe))
        info = ParserManager().parse(file)
        assert info is not None
        return info

    def test_sd_parsers_reads_what_matters(self) -> None:
        recipe = a_recipe(
            prompt="a cute rabbit, octane render\n(fluffy:1.3), 🐇",
            negative_prompt="blurry: very, dark",
            guidance_scale=7.5,
            model="somebody/a-model",
        )
        info = self.parsed(recipe)
        assert info.full_prompt == recipe.prompt
        assert info.full_negative_prompt == recipe.negative_prompt
        [sampler] = info.samplers
        assert sampler.name == "DDIM"
        assert sampler.parameters == {"cfg_scale": "7.5", "seed": "7", "steps": "3"}
        assert sampler.model is not None
        assert sampler.model.name == "somebody/a-model"
        assert recipe.model_sha256.startswith(str(sampler.model.hash))
        assert info.metadata["Size"] == "64x64"

    def test_sd_parsers_reads_a_recipe_without_negative_prompt(self) -> None:
        info = self.parsed(a_recipe(negative_prompt="", scheduler="lms"))
        assert (info.full_prompt, info.full_negative_prompt) == ("rabbit face", "")
        assert info.samplers[0].name == "LMS"

    @given(prompts.filter(lambda text: "Negative prompt:" not in text and text.strip()))
    def test_sd_parsers_is_not_misled_by_what_is_in_a_prompt(self, prompt: str) -> None:
        info = self.parsed(a_recipe(prompt=prompt))
        assert info.full_prompt == prompt.strip()
        assert info.full_negative_prompt == "blurry, dark"
        assert info.samplers[0].parameters["seed"] == "7"

    def test_a1111_reads_values_with_its_own_punctuation(self) -> None:
        recipe = a_recipe(
            model='a "model", v1: final', source_sha256=gradient().sha256, strength=0.35
        )
        line = parameters(recipe).split("\n")[-1]
        found = dict(A1111_PAIR.findall(line))
        assert json.loads(found.pop("Model")) == 'a "model", v1: final'
        assert found == {
            "Steps": "3",
            "Sampler": "DDIM",
            "CFG scale": "4.0",
            "Seed": "7",
            "Size": "64x64",
            "Model hash": recipe.model_sha256[:10],
            "Denoising strength": "0.35",
            "Version": "imagine-bot 0.1.0",
        }

    def test_the_text_is_the_prompt_the_negative_prompt_and_one_line(self) -> None:
        lines = parameters(a_recipe()).split("\n")
        assert lines[:2] == ["rabbit face", "Negative prompt: blurry, dark"]
        assert len(lines) == 3
        assert lines[2].startswith("Steps: 3, Sampler: DDIM, CFG scale: 4.0, Seed: 7, Size: 64x64")


class TestWhatIsRefused:
    def test_a_picture_without_a_recipe(self) -> None:
        assert refusal(with_chunks()) == NO_RECIPE

    def test_a_picture_of_another_program(self) -> None:
        assert refusal(with_chunks(png.text("parameters", parameters(a_recipe())))) == NO_RECIPE

    @pytest.mark.parametrize("format_", ["JPEG", "WEBP", "GIF", "BMP"])
    def test_a_picture_that_is_no_png(self, format_: str) -> None:
        written = io.BytesIO()
        to_image(gradient()).save(written, format_)
        assert refusal(written.getvalue()) == UNREADABLE

    @pytest.mark.parametrize("data", [b"", b"\0", png.SIGNATURE, b"<html>", b"{}"])
    def test_what_is_no_picture(self, data: bytes) -> None:
        assert refusal(data) == UNREADABLE

    def test_a_file_that_was_cut_off(self) -> None:
        data = write_png(gradient(), a_recipe())
        assert refusal(data[: len(data) // 2]) == UNREADABLE

    def test_a_huge_picture(self) -> None:
        assert refusal(png.white(10_000, 10_000)) == (
            "That picture is far too large to be one of Imagine Bot's."
        )
        assert refusal(png.white(20_000, 20_000)) == UNREADABLE

    @pytest.mark.parametrize("keyword", ["imagine-bot", "parameters", "anything"])
    def test_text_that_unpacks_to_more_than_any_recipe(self, keyword: str) -> None:
        bomb = zlib.compress(b" " * 50_000_000, 9)
        assert len(bomb) < 100_000
        head = keyword.encode()
        for chunk in (
            (b"iTXt", head + b"\0\1\0\0\0" + bomb),
            (b"zTXt", head + b"\0\0" + bomb),
        ):
            assert refusal(with_chunks(chunk)) == UNREADABLE

    def test_many_texts_that_unpack_to_too_much_together(self) -> None:
        text = zlib.compress(b" " * 1_000_000, 9)
        chunks = [(b"zTXt", b"%d\0\0" % number + text) for number in range(80)]
        assert refusal(with_chunks(*chunks)) == UNREADABLE

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "Expecting value: line 1 column 1 (char 0)"),
            ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            ("[]", "a recipe is a JSON object"),
            ("[" * 100_000, "the recipe is nested too deeply"),
            (changed(steps="abc"), "the recipe has a value of the wrong type in steps"),
            (changed(versions=None), "the recipe has a value of the wrong type in versions"),
            (changed(prompt=5), "the recipe has a value of the wrong type in prompt"),
            (
                changed(scheduler_settings=3),
                "the recipe has a value of the wrong type in scheduler_settings",
            ),
            (changed(extra=1), "the recipe has an unknown field extra"),
            (changed(steps=0), "For steps use a whole number from 1 to 150, not 0"),
            (
                changed(scheduler="restart"),
                f"There is no scheduler 'restart'; choose one of {', '.join(SCHEDULERS)}",
            ),
            (
                changed(spacing="wide"),
                "There is no spacing 'wide'; choose one of karras, exponential, beta, trailing",
            ),
            (changed(prompt="\ud800"), "The prompt holds a character that is none; type it again"),
            (changed(strength=0.5), "A strength needs an image to start from; add an image"),
            (
                changed(source_sha256="0" * 64),
                "An image to start from needs a strength, say 0.6",
            ),
            (changed(pixels_sha256="f" * 63), "its pixels_sha256 is no SHA-256"),
            (changed(model_sha256=""), "its model_sha256 is no SHA-256"),
            (
                changed(source_sha256="../../../etc/passwd", strength=0.5),
                "its source_sha256 is no SHA-256",
            ),
            (
                changed(reference_sha256=["0" * 64, "../x"]),
                "its reference_sha256 is no SHA-256",
            ),
            (
                changed(reference_sha256=["0" * 64] * 5),
                "it has 5 references, more than 4",
            ),
        ],
        ids=lambda value: value[-40:],
    )
    def test_a_recipe_that_makes_no_sense(self, text: str, reason: str) -> None:
        assert refusal(with_recipe(text)) == f"The recipe in that picture cannot be used: {reason}."

    @pytest.mark.parametrize("size", [10**9, 10**30, -64, 0])
    def test_a_size_that_no_memory_could_hold(self, size: int) -> None:
        text = changed(width=size, height=size, source_sha256="0" * 64, strength=0.5)
        assert "For width use" in refusal(with_recipe(text))

    def test_a_reason_as_long_as_the_file_is_cut_short(self) -> None:
        assert len(refusal(with_recipe(changed(**{"x\n" * 10_000: 1})))) < 300
        assert len(refusal(with_recipe(changed(steps=int("9" * 4_000))))) < 300

    def test_a_recipe_that_is_far_too_long(self) -> None:
        data = with_recipe(changed(prompt="x" * 2**18))
        for read in (read_png, read_png_outside):
            with pytest.raises(MetadataError, match="cannot be used: the recipe is too long"):
                read(data)

    def test_another_process_refuses_with_the_same_words(self) -> None:
        data = with_recipe(changed(steps=0))
        with pytest.raises(MetadataError) as caught:
            read_png_outside(data)
        assert str(caught.value) == refusal(data)

    def test_texts_that_are_no_utf8(self) -> None:
        chunk = (b"iTXt", b"imagine-bot\0\0\0\0\0\xff\xfe{}")
        assert refusal(with_chunks(chunk)) in (UNREADABLE, NO_RECIPE)


WRITTEN = write_png(gradient(), a_recipe(source_sha256=gradient().sha256, strength=0.5))


def test_a_file_says_where_it_is_from_and_is_read_with_and_without_that() -> None:
    pixels = gradient()
    recipe = a_recipe(pixels_sha256=pixels.sha256)
    bare, named = write_png(pixels, recipe), write_png(pixels, recipe, origin="abc123.42-1")
    assert (read_origin(bare), read_origin(named)) == (None, "abc123.42-1")
    assert read_png(bare) == read_png(named) == (pixels, recipe, parameters(recipe))


@settings(max_examples=400)
@given(st.randoms(use_true_random=False))
def test_whatever_the_bytes_are_there_is_a_recipe_or_a_sentence(dice: random.Random) -> None:
    data = png.mutated(WRITTEN, dice)
    if dice.random() < 0.2:
        data = data[: dice.randrange(len(data))]
    try:
        pixels, recipe, _ = read_png(data)
    except MetadataError:
        return
    assert pixels.sha256
    assert recipe.request(gradient() if recipe.source_sha256 else None).count == 1


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(json.loads(a_recipe().to_json()))),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        ),
        max_leaves=4,
    ),
)
def test_whatever_a_value_is_there_is_a_recipe_or_a_sentence(name: str, value: object) -> None:
    data = with_recipe(changed(**{name: value}))
    try:
        recipe = read_png(data)[1]
    except MetadataError:
        refusal(data)
    else:
        assert getattr(recipe, name) == value
