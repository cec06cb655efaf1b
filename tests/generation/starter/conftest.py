"""What is trained once for all tests of a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from generation.starter.training.export import export
from generation.starter.training.learning.networks import new_autoencoder
from generation.starter.training.learning.sketches import draw_forms
from generation.starter.training.learning.trainer import train
from generation.starter.training.learning.vocabulary import read_tokenizer, train_tokenizer

from .album import TINY
from .tasks import ALBUM, SETTINGS, autoencoding, diffusion


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(ALBUM.things, TINY.vocabulary, folder)
    return read_tokenizer(folder)


@pytest.fixture(scope="module")
def forms() -> torch.Tensor:
    torch.manual_seed(0)
    return draw_forms(new_autoencoder(TINY).eval(), ALBUM)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tokenizer = train_tokenizer(ALBUM.things, TINY.vocabulary, folder / "tokenizer")
    train(autoencoding(None), SETTINGS, folder, until=2)
    train(diffusion(tokenizer), SETTINGS, folder, until=2)
    export(folder, folder / "model", TINY)
    return folder
