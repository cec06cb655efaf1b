"""A small sample of the measures on the bundled model.

`python -m generation.starter.evaluate measure` takes all of them; the model's card has its figures.
This sample has few things to tell apart, which is easier. But each wrong picture counts for much,
so the goals leave room. The measures are rare tests, because the weights seldom change.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from generation.models.locate import starter_folder
from generation.starter.evaluate import open_autoencoder
from generation.starter.training.drawings.scenes import COLOURS
from generation.starter.training.drawings.sheet import Painter
from generation.starter.training.learning.captions import with_article
from generation.starter.training.measuring.measures import MEASURES, STRENGTHS
from generation.starter.training.measuring.recognition import Recogniser, border_colour
from generation.starter.training.measuring.subjects import Subjects

from .references import read_references

MODEL = starter_folder()
MOST_BYTES = 32_000_000


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    album, held = read_references()
    painter = Painter.open(MODEL)
    autoencoder = open_autoencoder(MODEL)
    return Subjects(
        painter=painter,
        autoencoder=autoencoder,
        album=album,
        held=held,
        recogniser=Recogniser(album, autoencoder),
        steps=10,
        guidance=painter.parts.profile.default_guidance_scale,
        share=0.05,
    )


def figures(subjects: Subjects, measure: str) -> dict[str, float]:
    return {figure.name: figure.value for figure in MEASURES[measure](subjects)}


@pytest.mark.rare
def test_prompts_are_followed(subjects: Subjects) -> None:
    found = figures(subjects, "following")
    assert found["name"] >= 0.85
    assert found["style"] >= 0.85
    assert found["colour"] == 1.0


@pytest.mark.rare
def test_so_are_colours_and_keywords_that_training_never_put_together(subjects: Subjects) -> None:
    assert figures(subjects, "colours")["held-out name x colour"] >= 0.75
    assert figures(subjects, "keywords")["keywords"] >= 0.6


@pytest.mark.rare
def test_seeds_change_the_picture_and_not_what_it_shows(subjects: Subjects) -> None:
    found = figures(subjects, "seeds")
    assert found["seeds: name"] >= 0.85
    assert found["seeds: distance within a prompt by that between things"] >= 1 / 3


@pytest.mark.rare
def test_a_background_that_is_not_named_may_have_any_colour(subjects: Subjects) -> None:
    names = [with_article(thing.name) for thing in subjects.album.things]
    found = Counter(border_colour(picture) for picture in subjects.make(names, 500))
    assert found.most_common(1)[0][1] <= len(names) / 3
    assert len(found) >= len(COLOURS) / 2


@pytest.mark.rare
def test_a_variation_goes_further_with_more_strength(subjects: Subjects) -> None:
    found = figures(subjects, "variations")
    distances = [found[f"variation {strength}: distance"] for strength in STRENGTHS]
    assert distances == sorted(distances)


@pytest.mark.rare
def test_a_negative_prompt_keeps_its_colour_away(subjects: Subjects) -> None:
    # One colour in ten comes by itself: of a few pictures that is hardly one.
    found = figures(replace(subjects, guidance=4.0, share=0.2), "negatives")
    share = "negative prompt: a colour's share"
    assert found[f"{share} with it"] < found[f"{share} without it"]


@pytest.mark.rare
def test_guidance_makes_pictures_follow_the_prompt(subjects: Subjects) -> None:
    # Of one thing alone most are right without: it takes two.
    pairs = replace(subjects, share=0.12)
    guided = figures(pairs, "pairs")["pairs: both right"]
    assert guided >= 0.75
    assert guided > figures(replace(pairs, guidance=1.0), "pairs")["pairs: both right"]


@pytest.mark.rare
def test_the_autoencoder_brings_pictures_back(subjects: Subjects) -> None:
    assert min(figures(subjects, "fidelity").values()) >= 31


def test_all_its_files_fit_in_32_megabytes() -> None:
    parts = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
    files = [file for part in parts for file in (MODEL / part).iterdir()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


def test_its_weights_are_in_float16() -> None:
    for file in MODEL.glob("*/*.safetensors"):
        assert {value.dtype for value in load_file(file).values()} == {torch.float16}
