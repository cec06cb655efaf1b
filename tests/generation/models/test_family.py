"""What the engine needs of every family of models, and what may share a call."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

from generation.catalog.profile import Family
from generation.engine.engine import Engine
from generation.errors import GenerationError
from generation.models.families import FAMILIES, family_of
from generation.models.family import Conditioning
from generation.models.stable_diffusion import StableDiffusion
from generation.values.request import GenerationRequest, Told

from ..examples import a_request

ROOT = Path(__file__).parents[3]


def without_remarks(source: str) -> str:
    """Return Python without comments and docstrings, which may name a family as an example."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not is_remark(one)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def is_remark(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def conditioning(texts: int, start: float = 0.0) -> Conditioning:
    return Conditioning(
        {
            "text": torch.arange(texts * 6.0).reshape(texts, 3, 2) + start,
            "pooled": torch.arange(texts * 4.0).reshape(texts, 4) - start,
        }
    )


class TestConditioning:
    def test_its_shape_names_each_tensor_without_the_number_of_texts(self) -> None:
        assert conditioning(2).shape == (("text", (3, 2)), ("pooled", (4,)))
        assert conditioning(5).shape == conditioning(1).shape
        assert hash(conditioning(5).shape) == hash(conditioning(1).shape)

    def test_rows_that_are_stacked_again_are_the_same(self) -> None:
        whole = conditioning(3)
        again = Conditioning.stack([whole.row(index) for index in range(3)])
        assert again.tensors.keys() == whole.tensors.keys()
        for name, tensor in whole.tensors.items():
            assert torch.equal(again.tensors[name], tensor)

    def test_a_row_does_not_keep_the_other_texts_alive(self) -> None:
        whole = conditioning(3)
        for name, tensor in whole.row(1).tensors.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
            assert torch.equal(tensor[0], whole.tensors[name][1])

    def test_other_tensors_stand_beside_it_and_count_in_its_shape(self) -> None:
        text = conditioning(1)
        both = text.beside({"reference_0": torch.zeros(1, 4, 8, 6)})
        assert both.shape == (*text.shape, ("reference_0", (4, 8, 6)))
        assert text.beside({}).shape == text.shape == conditioning(1).shape

    def test_texts_that_differ_in_any_tensor_differ_when_flat(self) -> None:
        whole = conditioning(2)
        other = Conditioning({**whole.tensors, "pooled": whole.tensors["pooled"] + 1})
        assert whole.flat().shape == (2, 10)
        assert not torch.equal(whole.flat(), other.flat())


class TestFamilies:
    @pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
    def test_each_family_has_a_class_and_parts_that_it_names(self, family: Family) -> None:
        kind = family.load()
        assert callable(kind.load)
        assert set(kind.ADAPTABLE) <= family.layout.networks.keys()
        assert family.layout.pipelines

    def test_no_two_families_claim_one_pipeline(self) -> None:
        claimed = [name for family in FAMILIES for name in family.layout.pipelines]
        assert len(claimed) == len(set(claimed))

    def test_a_pipeline_without_a_family_is_an_error(self) -> None:
        with pytest.raises(LookupError, match="FluxPipeline"):
            family_of("FluxPipeline")

    def test_nothing_but_the_models_knows_the_name_of_a_family(self) -> None:
        """Otherwise a new family would be more than one file and one row."""
        classes = {family.load().__name__ for family in FAMILIES}
        pipelines = {name for family in FAMILIES for name in family.layout.pipelines}
        names = {family.name for family in FAMILIES} | classes | pipelines
        # The starter is trained as a model of its family, and `bench` compares it with diffusers.
        its_own = ("generation/models/", "generation/starter/", "bot/bench/")
        for package in ("bot", "generation", "storage"):
            for file in sorted((ROOT / package).rglob("*.py")):
                path = file.relative_to(ROOT).as_posix()
                if not path.startswith(its_own):
                    code = without_remarks(file.read_text(encoding="utf-8"))
                    assert not [name for name in names if name in code], path


class TestStableDiffusion:
    def test_it_is_told_of_a_text_by_the_text_encoders_states_alone(
        self, sd15: StableDiffusion
    ) -> None:
        ids = sd15.tokenize(Told("red apple")).ids
        with torch.inference_mode():
            told, again = sd15.encode([ids, ids])
            [states] = [told.tensors[name] for name, _ in told.shape]
            expected = sd15.text_encoder(torch.tensor([ids])).last_hidden_state
        assert states.shape == (1, sd15.profile.token_limit, expected.shape[2])
        assert torch.equal(states, expected)
        assert torch.equal(again.flat(), told.flat())

    def test_only_images_of_the_same_weights_and_shapes_share_a_call(
        self, sd15: StableDiffusion
    ) -> None:
        latents, texts = torch.Size((1, 4, 8, 8)), conditioning(1)
        key = sd15.batch_key(latents, texts)
        assert sd15.batch_key(torch.Size((3, 4, 8, 8)), conditioning(2)) == key
        longer = Conditioning({**texts.tensors, "text": torch.zeros(1, 4, 2)})
        others = [
            sd15.batch_key(torch.Size((1, 4, 8, 16)), texts),
            sd15.batch_key(latents, longer),
            dataclasses.replace(sd15, weights_sha256="0" * 64).batch_key(latents, texts),
            dataclasses.replace(sd15, dtype=torch.bfloat16).batch_key(latents, texts),
        ]
        assert key not in others
        assert len(set(others)) == len(others)


def test_weights_that_are_patched_in_place_change_the_pictures(sd15: StableDiffusion) -> None:
    """As by a LoRA; the engine has made pictures with the plain weights before."""
    engine, request = Engine(sd15, shared=False), a_request(steps=2, guidance_scale=1.0)

    def made() -> bytes:
        return picture(engine, request)

    plain = made()
    weight = sd15.unet.conv_in.weight
    with torch.no_grad():
        kept = weight.clone()
        weight += 0.1
    try:
        patched = made()
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert patched != plain
    assert made() == plain


def picture(engine: Engine, request: GenerationRequest) -> bytes:
    [images] = engine.begin([request])
    assert not isinstance(images, GenerationError)
    while not images[0].done:
        engine.step(images)
    [finished] = engine.finish(images)
    assert finished is not None
    return finished.pixels.rgb
