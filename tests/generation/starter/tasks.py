"""The three trainings on a tiny album, for the tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from generation.starter.training.drawings.scenes import hold_out
from generation.starter.training.learning.autoencoder import (
    AutoencoderTask,
)
from generation.starter.training.learning.diffusion import DiffusionTask
from generation.starter.training.learning.progress import (
    Schedule,
    step_generator,
)
from generation.starter.training.learning.reading import ReadingTask
from generation.starter.training.learning.sketches import FORMS
from generation.starter.training.learning.trainer import Settings, Task

from .album import STYLES, TINY, album

ALBUM = album()
HELD = hold_out(ALBUM.things, STYLES, 0)
SETTINGS = Settings(4, Schedule(1e-2, warmup=2), log_every=1, save_every=2)


def autoencoding(_: Any) -> Task:
    return AutoencoderTask(ALBUM, TINY, 0)


# Each of one colour, which is quickly told from noise: of noise alone next to nothing is learnt.
LATENTS = (2 * torch.randn(60, 4, 1, 1, generator=step_generator(0, 0))).half().repeat(1, 1, 8, 8)


def diffusion(tokenizer: Any) -> DiffusionTask:
    return DiffusionTask(ALBUM, HELD, LATENTS, tokenizer, TINY, 0)


def scaled_latents(task: DiffusionTask) -> torch.Tensor:
    assert task.scale == pytest.approx(0.5, abs=0.05)
    return LATENTS.float() * task.scale


def reading(tokenizer: Any) -> Task:
    shape = (len(ALBUM.pictures), len(FORMS), 2, 4, 8, 8)
    forms = torch.randn(shape, generator=step_generator(0, 0)).half()
    return ReadingTask(ALBUM, HELD, forms, 60, tokenizer, TINY, 0)
