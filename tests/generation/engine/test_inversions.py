"""Textual inversions, beside diffusers' pipelines with the same vectors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.catalog.addons.loras import LoraLibrary
from generation.engine.adaptation import Adaptation
from generation.engine.engine import Engine
from generation.errors import LoraError
from generation.models.stable_diffusion import StableDiffusion
from generation.models.stable_diffusion_xl import StableDiffusionXL
from generation.values.inversion import Inversion
from generation.values.lora import Lora
from generation.values.recipe import Recipe
from generation.values.request import GenerationRequest

from .. import loras
from ..examples import a_request
from ..pipelines import Pipelines, pixels
from ..sdxl import reference_sdxl

MANY, ONE = 3, 1
WORD = re.compile(r"<\|inversion-[0-9]+-[0-9]+\|>")


def vectors(width: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(sd15: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in A1111's layout with three vectors, and one in diffusers' layout with one."""
    where = tmp_path_factory.mktemp("embeddings")
    width = sd15.text_encoder.config.hidden_size
    loras.save({"emb_params": vectors(width, MANY)}, where / "cat-toy.safetensors")
    loras.save({"<style>": vectors(width, ONE, 1)[0]}, where / "style.safetensors")
    return where


@pytest.fixture(scope="module")
def engine(sd15: StableDiffusion, folder: Path) -> Engine:
    return Engine(sd15, inversions=LoraLibrary(folder, kind="embedding"))


def wanted(prompt: str, *names: str, **changes: Any) -> GenerationRequest:
    inversions = tuple(map(Inversion, names))
    values = {"steps": 3, "guidance_scale": 7.5, **changes}
    return a_request(prompt=prompt, read_prompt=prompt, inversions=inversions, **values)


def assert_alike(made: np.ndarray, expected: np.ndarray) -> None:
    away = np.abs(made.astype(int) - expected.astype(int))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size


def test_it_is_the_pipelines_picture(engine: Engine, sd15_folder: Path, folder: Path) -> None:
    pipelines = Pipelines.load(sd15_folder)
    # The pipeline writes out the vectors of a word in small letters only.
    for file, token in (("cat-toy", "cat-toy"), ("style", "<style>")):
        pipelines.text.load_textual_inversion(folder / f"{file}.safetensors", token=token)
    request = wanted(
        "a cat-toy, in <style> red", "cat-toy", "style", negative_prompt="dark <style> cat"
    )
    made = pixels(engine.generate(request)[0])
    assert_alike(made, pipelines.picture(request))
    plain = pixels(engine.generate(replace(request, inversions=()))[0])
    assert np.abs(plain.astype(int) - made.astype(int)).max() > 10


def test_with_two_encoders_it_is_the_pipelines_picture_too(
    sdxl: StableDiffusionXL, sdxl_folder: Path, tmp_path: Path
) -> None:
    widths = sdxl.inversion_widths
    both = {
        "clip_l": vectors(widths["text_encoder"], 2),
        "clip_g": vectors(widths["text_encoder_2"], 2, 1),
    }
    loras.save(both, tmp_path / "toy.safetensors")
    pipelines = reference_sdxl(sdxl_folder)
    text = pipelines.text
    for key, tokenizer, encoder in (
        ("clip_l", text.tokenizer, text.text_encoder),
        ("clip_g", text.tokenizer_2, text.text_encoder_2),
    ):
        text.load_textual_inversion(
            {"toy": both[key]}, token="toy", tokenizer=tokenizer, text_encoder=encoder
        )
    engine = Engine(sdxl, inversions=LoraLibrary(tmp_path, kind="embedding"), shared=False)
    request = wanted("a toy cat", "toy")
    assert_alike(pixels(engine.generate(request)[0]), pipelines.picture(request))


def test_bits_depend_neither_on_neighbours_nor_on_what_was_read_before(engine: Engine) -> None:
    requests = [
        wanted("a Cat-Toy cat", "Cat-Toy"),
        wanted("a style cat", "style"),
        wanted("a Cat-Toy cat"),
        wanted("a style Cat-Toy cat", "style", "Cat-Toy"),
    ]
    alone = [engine.generate(request)[0].pixels for request in requests]
    begun = engine.begin(requests)
    images = [image for images in begun for image in images]  # type: ignore[union-attr]
    # The network is the same for all, and only what it is told differs.
    assert len({image.batch_key for image in images}) == 1
    while not all(image.done for image in images):
        engine.step(images)
    assert [made.pixels for made in engine.finish(images) if made is not None] == alone
    assert len({picture.sha256 for picture in alone}) == len(requests)


def test_a_recipe_holds_their_hashes_and_makes_the_picture_again(engine: Engine) -> None:
    made = engine.generate(wanted("a cat-toy by <STYLE>", "Cat-Toy", "style"))[0]
    recipe = Recipe.from_json(made.recipe.to_json())
    assert [each["name"] for each in recipe.inversions or ()] == ["Cat-Toy", "style"]
    assert engine.generate(recipe.request(None))[0].pixels == made.pixels
    changed = replace(recipe, inversions=[{"name": "style", "sha256": "0" * 64}])
    with pytest.raises(LoraError, match="embedding style has changed"):
        engine.generate(changed.request(None))


def test_the_end_that_is_not_read_is_told_in_the_words_of_the_prompt(engine: Engine) -> None:
    request = wanted("cat " * 80 + "a Cat-Toy by day", "Cat-Toy")
    unread = engine.generate(replace(request, steps=1))[0].recipe.unread_prompt
    assert unread.endswith("a Cat-Toy by day")


@pytest.mark.parametrize("mark", ["<|inversion-9-0|>", "<|inversion-0-0|>", "<|inversion-0-2|>"])
def test_the_word_for_a_vector_means_nothing_when_a_person_types_it(
    engine: Engine, mark: str
) -> None:
    typed, plain = (
        engine.generate(wanted(f"a {text} cat by style", "style", steps=1))[0]
        for text in (mark, " ")
    )
    assert typed.pixels == plain.pixels
    unread = wanted("cat " * 80 + f"{mark} by style", "style", steps=1)
    assert engine.generate(unread)[0].recipe.unread_prompt.endswith("by style")


PIECES = ["<|inversion-", "0", "1", "9", "-", "|>", "<|inversion-0-0|>", " style ", "cat-toy", "٣"]


@settings(max_examples=300, deadline=None)
@given(text=st.lists(st.sampled_from(PIECES), max_size=12).map("".join), end=st.integers(0, 60))
def test_no_prompt_and_no_end_of_a_prompt_breaks_the_words_for_vectors(text: str, end: int) -> None:
    used = Adaptation(
        inversions=(Inversion("cat-toy"), Inversion("style")),
        vectors=({"text_encoder": vectors(4, MANY)}, {"text_encoder": vectors(4, ONE)}),
    )
    written = used.written(text)
    # Every word for a vector that is left came from a name.
    names = len(re.findall(r"(?<!\w)(?:cat-toy|style)(?!\w)", text))
    assert written.count("<|inversion-0-0|>") + written.count("<|inversion-1-0|>") == names
    assert used.unwritten(written).split() == WORD.sub(" ", text).split()
    used.unwritten(text[end:])
    assert Adaptation().written(text) == Adaptation().unwritten(text) == text


def test_beside_a_lora_for_the_text_encoder_both_count(
    sd15: StableDiffusion, folder: Path, tmp_path: Path
) -> None:
    found = loras.layers({"text_encoder": sd15.text_encoder}, only="q_proj")
    loras.save(loras.kohya(found), tmp_path / "ink.safetensors")
    library, inversions = LoraLibrary(tmp_path), LoraLibrary(folder, kind="embedding")
    engine = Engine(sd15, library=library, inversions=inversions, shared=False)
    request = wanted("a Cat-Toy", "Cat-Toy", loras=(Lora("ink", 2.0),))
    both = engine.generate(request)[0].pixels
    assert both != engine.generate(replace(request, loras=()))[0].pixels
    assert both != engine.generate(replace(request, inversions=()))[0].pixels


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"emb_params": torch.ones(2, 7)}, "no embedding for a model like"),
        ({"clip_l": torch.ones(1, 32), "clip_g": torch.ones(1, 32)}, "no embedding for a model"),
        ({"emb_params": torch.ones(76, 32)}, "76 vectors"),
        ({"emb_params": torch.full((1, 32), torch.inf)}, "not finite"),
        ({"emb_params": torch.ones(1, 32, dtype=torch.int32)}, "no embedding for a model"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(
    sd15: StableDiffusion, tmp_path: Path, tensors: loras.Tensors, said: str
) -> None:
    loras.save(tensors, tmp_path / "toy.safetensors")
    engine = Engine(sd15, inversions=LoraLibrary(tmp_path, kind="embedding"), shared=False)
    with pytest.raises(LoraError, match=said):
        engine.generate(wanted("a toy", "toy"))
