"""Guided images whose two texts have different shapes: a call for each text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from generation.engine.engine import Engine
from generation.models.family import Conditioning
from generation.models.z_image import ZImage
from generation.timing import Sizes
from generation.values.request import GenerationRequest

from ..examples import a_request
from .faults import begin, run, small_calls

LONG = "a very long text, " * 6
SPLIT = {"prompt": LONG, "negative_prompt": "dark", "scheduler": "euler", "steps": 2}
MIX = (
    a_request(**SPLIT, seed=1, count=3),
    a_request(**{**SPLIT, "prompt": "dark", "negative_prompt": LONG}, seed=4),
    a_request(**{**SPLIT, "negative_prompt": LONG}, seed=5),
    a_request(**SPLIT, seed=6, guidance_scale=1.0),
)


@pytest.fixture
def engine(z_image: ZImage) -> Engine:
    """An engine of this test alone: what it has learnt of the memory stays with it."""
    return small_calls(Engine(z_image))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The rows and the tokens of each call of the network."""
    seen: list[tuple[int, int]] = []
    predict = ZImage.predict

    def note(
        self: ZImage, latents: torch.Tensor, timesteps: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        seen.append((len(latents), told.tensors["text"].shape[1]))
        return predict(self, latents, timesteps, told)

    monkeypatch.setattr(ZImage, "predict", note)
    return seen


def made(engine: Engine, *requests: GenerationRequest) -> list[Any]:
    return run(engine, begin(engine, *requests))


def test_both_calls_of_a_step_have_the_images_as_rows(
    engine: Engine, calls: list[tuple[int, int]]
) -> None:
    images = begin(engine, MIX[0])
    short, long = (told.tensors["text"].shape[1] for told in reversed(images[0].told))
    assert short < long
    assert [image.rows for image in images] == [1, 1, 1]
    run(engine, images)
    calls.clear()
    run(engine, begin(engine, MIX[0]))
    assert {tokens for _, tokens in calls} == {short, long}
    for size in (1, 2, 4):
        assert calls.count((size, short)) == calls.count((size, long))


def test_images_share_calls_only_where_both_texts_have_the_same_shapes(engine: Engine) -> None:
    keys = [image.batch_key for image in begin(engine, *MIX)]
    assert len(set(keys[:3])) == 1
    assert len({keys[0], keys[3], keys[4]}) == 3
    # A plain image joins a guided one whose texts are both as long as its own.
    assert keys[5] == keys[4]


def test_each_picture_is_the_one_that_it_is_alone(engine: Engine) -> None:
    alone = [picture for request in MIX for picture in engine.generate(request)]
    assert made(engine, *MIX) == alone


def test_where_memory_runs_out_calls_are_made_smaller_and_every_picture_comes_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made(engine, *MIX)
    refused: list[int] = []
    predict = ZImage.predict

    def run_out(
        self: ZImage, latents: torch.Tensor, timesteps: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        if len(latents) > 2:
            refused.append(len(latents))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return predict(self, latents, timesteps, told)

    images = begin(engine, *MIX)
    first = images[0]
    for told in first.told:
        first.networks.sizes(first.latents.shape, told)
        key = (tuple(first.latents.shape[1:]), told.shape)
        # Larger calls are so much the better that they are tried first.
        first.networks._sizes[key] = Sizes({2: 1.0, 4: 1.1})
    monkeypatch.setattr(ZImage, "predict", run_out)
    assert run(engine, images) == expected
    # What did not fit is not tried again at each step.
    assert refused
    assert set(refused) == {4}
    assert len(refused) <= 2
