"""The short form of `python -m tests.parity`, and what its table says of a wrong cell."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from generation.models.families import FAMILIES

from .cells import MODES, Cell, Outcome, distance
from .checkpoints import CHECKPOINTS, chosen
from .measuring import measure
from .page import page

NAMES = [family.name for family in FAMILIES]
RIGHT = Outcome(
    cell=Cell(0, "euler", "karras", "text", is_flow=False),
    contrast=50.0,
    largest=1,
    equal=0.99912,
    same_with_our_kernels=True,
    same_with_the_librarys=True,
    same_beside_others=True,
    same_after_restart=True,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    checkpoints = chosen(short=True)
    outcomes = measure(checkpoints, tmp_path_factory.mktemp("parity"), short=True)
    return {one.family: outcomes[one.name] for one in checkpoints}


@pytest.mark.parametrize("family", NAMES)
def test_two_schedulers_of_every_family_make_the_pipelines_pictures_in_each_mode(
    found: dict[str, list[Outcome]], family: str
) -> None:
    outcomes = found[family]
    assert len({outcome.cell.scheduler for outcome in outcomes}) == 2
    assert len(outcomes) in (2 * len(MODES), 2 * len(MODES[:-1]))
    assert {str(one.cell): one.faults for one in outcomes if one.faults} == {}


def test_every_family_has_a_checkpoint() -> None:
    assert {checkpoint.family for checkpoint in CHECKPOINTS} == set(NAMES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"contrast": 3.0}, "no contrast"),
        ({"largest": 2}, "off by 2"),
        ({"equal": 0.9985}, "99.85% of the values"),
        ({"same_with_our_kernels": False}, "both use our kernels"),
        ({"same_with_the_librarys": False}, "both use the library's"),
        ({"same_beside_others": False}, "Seven other pictures"),
        ({"same_after_restart": False}, "A fresh process"),
    ],
)
def test_whatever_is_wrong_with_a_cell_stands_in_the_table(
    changes: dict[str, Any], told: str
) -> None:
    assert RIGHT.faults == []
    wrong = dataclasses.replace(RIGHT, **changes)
    [fault] = wrong.faults
    assert told in fault
    assert f"**wrong**: {fault}" in page({"Z-Image": [wrong]})


def test_a_right_cell_shows_its_distance_rounded_against_us() -> None:
    equal = dataclasses.replace(RIGHT, largest=0, equal=1.0)
    nearly = dataclasses.replace(RIGHT, equal=0.99999)
    assert "| `euler` | `karras` | equal |" in page({"Z-Image": [equal]})
    assert "| `euler` | `karras` | 1, 99.99 % |" in page({"Z-Image": [nearly]})


def test_the_distance_counts_each_value_in_both_directions() -> None:
    dark, light = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    light[0, 0, 1] = 255
    assert distance(dark, light) == distance(light, dark) == (255, 11 / 12)
