"""Pictures of what a starter model can do: `python -m generation.starter.gallery --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from ..models.locate import starter_folder
from ..values.request import GenerationRequest
from .training.drawings.sheet import SAMPLES, Painter, request, sheet
from .training.measuring.measures import GUIDANCES, STRENGTHS, from_array

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Model = Annotated[Path, typer.Option(help="The model's folder.")]
Seed = Annotated[int, typer.Option(help="The seed of the first picture, or of every one.")]

_MODEL: Final = starter_folder()
_GRID_COLUMNS: Final = 8
_SOURCE: Final = "a red apple"
_VARIED: Final = (_SOURCE, "a cat face on a blue background")
_SWEPT: Final = (
    "an octopus on a pink background",
    "a castle, noto style",
    "a hamburger on a green background",
)


@app.command()
def grid(file: Path, model: Model = _MODEL, seed: Seed = 0) -> None:
    """Paint the prompts of the sample sheets of the training, with consecutive seeds."""
    painter = Painter.open(model)
    wanted = [_request(painter, text, seed + place) for place, text in enumerate(SAMPLES)]
    _save(painter, wanted, _GRID_COLUMNS, file)


@app.command()
def variations(file: Path, model: Model = _MODEL, seed: Seed = 0) -> None:
    """Paint an apple and its variations by strength: a row with its prompt, one with another."""
    painter = Painter.open(model)
    first = _request(painter, _SOURCE, seed)
    source = from_array(painter.paint([first])[0])
    rows = [
        [
            first,
            *(
                replace(_request(painter, text, seed + 1), source=source, strength=strength)
                for strength in STRENGTHS
            ),
        ]
        for text in _VARIED
    ]
    _save(painter, [each for row in rows for each in row], 1 + len(STRENGTHS), file)


@app.command()
def guidance(file: Path, model: Model = _MODEL, seed: Seed = 0) -> None:
    """Paint a row of pictures by guidance scale for each of a few prompts."""
    painter = Painter.open(model)
    wanted = [
        replace(_request(painter, text, seed), guidance_scale=scale)
        for text in _SWEPT
        for scale in GUIDANCES
    ]
    _save(painter, wanted, len(GUIDANCES), file)


def _request(painter: Painter, text: str, seed: int) -> GenerationRequest:
    profile = painter.parts.profile
    return request(
        text,
        seed,
        edge=painter.edge,
        steps=profile.default_steps,
        guidance=profile.default_guidance_scale,
    )


def _save(painter: Painter, wanted: Sequence[GenerationRequest], columns: int, file: Path) -> None:
    sheet(painter.paint(wanted), columns).save(file, optimize=True)


if __name__ == "__main__":
    app()
