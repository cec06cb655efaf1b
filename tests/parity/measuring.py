"""Makes the pictures of a checkpoint's cells and compares them.

As a program it is the fresh process: `python -m tests.parity.measuring` reads the folders of
checkpoints from its input, and writes the hashes of the pictures.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Final
from unittest import mock

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from generation.engine.calibration import Bounds
from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import GenerationError
from generation.libraries import quiet
from generation.models.family import Model
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.networks import deterministic
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

from ..generation.pipelines import pixels
from .cells import Outcome, cells_of, distance
from .checkpoints import CHECKPOINTS, Checkpoint

_TOGETHER: Final = 8


def measure(
    checkpoints: Sequence[Checkpoint], parent: Path, *, short: bool = False
) -> dict[str, list[Outcome]]:
    """Return the outcomes by the names of the checkpoints, which are made in the folder `parent`.

    If `short` each checkpoint has two schedulers.
    """
    folders = {}
    for number, checkpoint in enumerate(checkpoints):
        folders[checkpoint.name] = parent / f"model-{number}"
        with quiet():
            checkpoint.make(folders[checkpoint.name])
    restarted = _after_restart(folders, short=short)
    return {
        checkpoint.name: _outcomes(checkpoint, folders[checkpoint.name], restarted, short=short)
        for checkpoint in checkpoints
    }


def without_warnings() -> None:
    """Keep the warnings of the libraries off the terminal, for the rest of the process."""
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()


def _outcomes(
    checkpoint: Checkpoint, folder: Path, restarted: Mapping[str, list[str]], *, short: bool
) -> list[Outcome]:
    model = _load(folder)
    cells = cells_of(model.profile, short=short)
    requests = [cell.request(checkpoint) for cell in cells]
    alone = _alone(Engine(model, shared=False), requests)
    beside = _together(_shared(model), requests)
    plain = _alone(Engine(_load_with_the_librarys_kernels(folder), shared=False), requests)
    with quiet():
        same, stock = checkpoint.reference(folder), checkpoint.reference(folder, stock=True)
    outcomes = []
    for cell, request, made, mixed, other, again in zip(
        cells, requests, alone, beside, plain, restarted[checkpoint.name], strict=True
    ):
        ours, theirs = pixels(made), stock.picture(request)
        largest, equal = distance(ours, theirs)
        outcomes.append(
            Outcome(
                cell=cell,
                contrast=float(ours.std()),
                largest=largest,
                equal=equal,
                same_with_our_kernels=distance(ours, same.picture(request))[0] == 0,
                same_with_the_librarys=distance(pixels(other), theirs)[0] == 0,
                same_beside_others=mixed.pixels == made.pixels,
                same_after_restart=again == made.pixels.sha256,
            )
        )
    return outcomes


def _load(folder: Path) -> Model:
    return load(locate(str(folder)), device="cpu", dtype="float32")


def _load_with_the_librarys_kernels(folder: Path) -> Model:
    with mock.patch.object(deterministic, "prepare") as left_out:
        model = _load(folder)
    assert left_out.called
    return model


def _shared(model: Model) -> Engine:
    engine = Engine(model)
    # Measuring larger calls takes longer than making these pictures.
    engine._networks._bounds = Bounds(ladder=(1, 2, 4, 8))
    return engine


def _alone(engine: Engine, requests: Sequence[GenerationRequest]) -> list[GeneratedImage]:
    return [engine.generate(request)[0] for request in requests]


def _together(engine: Engine, requests: Sequence[GenerationRequest]) -> list[GeneratedImage]:
    """Return the pictures of `requests`, made eight at a time."""
    made: list[GeneratedImage] = []
    for first in range(0, len(requests), _TOGETHER):
        wanted = list(requests[first : first + _TOGETHER])
        others = (
            dataclasses.replace(request, seed=seed)
            for request, seed in zip(cycle(requests), count(1_000))
        )
        group = [*wanted, *islice(others, _TOGETHER - len(wanted))]
        made += _eight(engine, group)[: len(wanted)]
    return made


def _eight(engine: Engine, requests: Sequence[GenerationRequest]) -> list[GeneratedImage]:
    """Begin a request before each step, so that each picture is at a step of its own."""
    running: list[Denoising] = []
    for request in requests:
        [begun] = engine.begin([request])
        assert not isinstance(begun, GenerationError)
        running += begun
        engine.step(running)
    while not all(image.done for image in running):
        engine.step(running)
    finished = engine.finish(running)
    return [picture for picture in finished if isinstance(picture, GeneratedImage)]


def _after_restart(folders: Mapping[str, Path], *, short: bool) -> dict[str, list[str]]:
    asked = {"short": short, "folders": {name: str(path) for name, path in folders.items()}}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    hashes: dict[str, list[str]] = json.loads(done.stdout)
    return hashes


def _hashes(checkpoint: Checkpoint, folder: Path, *, short: bool) -> list[str]:
    model = _load(folder)
    requests = [cell.request(checkpoint) for cell in cells_of(model.profile, short=short)]
    return [made.pixels.sha256 for made in _alone(Engine(model, shared=False), requests)]


def _fresh_process() -> None:
    without_warnings()
    asked = json.load(sys.stdin)
    found = {
        checkpoint.name: _hashes(checkpoint, Path(folder), short=asked["short"])
        for checkpoint in CHECKPOINTS
        if (folder := asked["folders"].get(checkpoint.name))
    }
    print(json.dumps(found))


if __name__ == "__main__":
    _fresh_process()
