"""A cell of the table: what is asked for, and what has to be true of its picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from generation.catalog.profile import ModelProfile
from generation.schedulers.fitting import spacings_of
from generation.values.request import GenerationRequest, SchedulerName, Spacing

from ..generation.examples import a_request, gradient
from .checkpoints import Checkpoint

Mode = Literal["text", "image", "edit"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

# A picture without contrast would make any comparison easy.
_CONTRAST: Final = 10
_MOST_AWAY: Final = 1
_LEAST_EQUAL: Final = 0.999
_SHORT: Final = 2
_STRENGTH: Final = 0.5
LMS_FROM_AN_IMAGE: Final = (
    "diffusers takes the order of the method from the whole schedule. From a middle step it uses "
    "derivatives that were never computed. So the cell is compared at strength 1, where both start "
    "at the first step."
)
HEUN_FROM_AN_IMAGE: Final = (
    "The pipelines of diffusers take calls of the network for steps, and Heun's method has two "
    "calls a step. So the cell is compared at strength 1, where both start at the first step."
)


@dataclass(frozen=True)
class Cell:
    """One picture of one checkpoint. Its `number` decides its seed and its steps."""

    number: int
    scheduler: SchedulerName
    spacing: Spacing | None
    mode: Mode
    is_flow: bool

    @property
    def on_purpose(self) -> str | None:
        """Return why this cell differs from diffusers on purpose at a strength below 1."""
        if self.mode != "image":
            return None
        if self.scheduler == "lms":
            return LMS_FROM_AN_IMAGE
        return HEUN_FROM_AN_IMAGE if self.is_flow and self.scheduler == "heun" else None

    def request(self, checkpoint: Checkpoint) -> GenerationRequest:
        """Return the request for the cell's picture."""
        values: dict[str, Any] = {"prompt": "a cat", **checkpoint.values}
        if self.mode == "edit":
            values["references"] = (gradient(), gradient(96, 64))
        if self.mode == "image":
            values["source"] = gradient()
            values["strength"] = 1.0 if self.on_purpose else _STRENGTH
            if checkpoint.edits_from_image:
                values["references"] = (gradient(),)
        return a_request(
            scheduler=self.scheduler,
            spacing=self.spacing,
            seed=self.number,
            # The half of it has to be whole: the pipelines of flow matching round it up.
            steps=4 + 2 * (self.number % 2),
            **values,
        )


def cells_of(profile: ModelProfile, *, short: bool = False) -> list[Cell]:
    """Return the cells of a checkpoint: each scheduler, spacing and mode that it has.

    A `short` list has two schedulers without a spacing: the first and the last that fit.
    """
    modes = MODES if profile.most_references else MODES[:-1]
    is_flow = profile.prediction_type == "flow"
    rows = list(_rows(profile))
    if short:
        plain = [row for row in rows if row[1] is None]
        rows = plain[:: len(plain) - 1][:_SHORT]
    each = ((row, mode) for row in rows for mode in modes)
    return [
        Cell(number, scheduler, spacing, mode, is_flow)
        for number, ((scheduler, spacing), mode) in enumerate(each)
    ]


def _rows(profile: ModelProfile) -> Iterator[tuple[SchedulerName, Spacing | None]]:
    for scheduler in profile.schedulers:
        for spacing in (None, *spacings_of(scheduler, profile.scheduler_config)):
            yield scheduler, spacing


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found of a cell's picture.

    `contrast` is the standard deviation of its values, of 255. `largest` and `equal` compare the
    engine with our kernels to the pipeline with the library's: the largest difference of 255, and
    the share of equal values. `same_with_our_kernels` and `same_with_the_librarys` say whether
    every value is equal where both use the same kernels. `same_beside_others` and
    `same_after_restart` compare the engine with itself.
    """

    cell: Cell
    contrast: float
    largest: int
    equal: float
    same_with_our_kernels: bool
    same_with_the_librarys: bool
    same_beside_others: bool
    same_after_restart: bool

    @property
    def faults(self) -> list[str]:
        """Return a sentence for each thing that is wrong; none if the cell is right."""
        checks = {
            f"The picture has no contrast ({self.contrast:.1f}).": self.contrast > _CONTRAST,
            f"With our kernels a value is off by {self.largest}.": self.largest <= _MOST_AWAY,
            f"With our kernels {self.equal:.2%} of the values are equal.": (
                self.equal >= _LEAST_EQUAL
            ),
            "Values differ although both use our kernels.": self.same_with_our_kernels,
            "Values differ although both use the library's kernels.": self.same_with_the_librarys,
            "Seven other pictures changed the picture.": self.same_beside_others,
            "A fresh process made another picture.": self.same_after_restart,
        }
        return [sentence for sentence, is_right in checks.items() if not is_right]


def distance(made: np.ndarray, expected: np.ndarray) -> tuple[int, float]:
    """Return the largest difference of two pictures, and the share of their equal values."""
    away = np.abs(made.astype(int) - expected.astype(int))
    return int(away.max()), float((away == 0).mean())
