"""Measure a starter model: `python -m generation.starter.evaluate --help`.

Prints a table of every figure with its goal. With `--json` it writes the same as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from diffusers import AutoencoderKL
from PIL import Image
from rich.console import Console
from rich.table import Table

from ..libraries import quiet
from ..models.locate import starter_folder
from .train import read_album
from .training.card import card as model_card
from .training.drawings.sheet import Painter, sheet
from .training.measuring.measures import MEASURES
from .training.measuring.recognition import Recogniser
from .training.measuring.subjects import Figure, Prompt, Subjects, random_prompts

app = typer.Typer(add_completion=False, help=__doc__)
_console = Console(soft_wrap=True)

Model = Annotated[Path, typer.Option(help="The model's folder.")]
Guidance = Annotated[float | None, typer.Option(help="Instead of the model's own scale.")]
Work = Annotated[Path, typer.Option(help="The folder with the packages and the drawn icons.")]

_WORK: Final = Path("data/starter")
_MODEL: Final = starter_folder()
_CONTACTS: Final = 100
_CONTACT_COLUMNS: Final = 10
_CONTACT_SEED: Final = 11
_DASH: Final = "-"


def open_subjects(
    model: Path, work: Path, *, share: float, steps: int, guidance: float | None
) -> Subjects:
    """Return what the measures need for the model in the folder `model`.

    The default of `guidance` is the model's own guidance scale.
    """
    album, held = read_album(work)
    painter, autoencoder = Painter.open(model), open_autoencoder(model)
    return Subjects(
        painter=painter,
        autoencoder=autoencoder,
        album=album,
        held=held,
        recogniser=Recogniser(album, autoencoder),
        steps=steps,
        guidance=painter.parts.profile.default_guidance_scale if guidance is None else guidance,
        share=share,
    )


def open_autoencoder(model: Path) -> Any:
    """Return the autoencoder in the folder `model` as diffusers runs it, in float32.

    The engine's own decodes each picture independently of the others. No measure needs that, and it
    takes twice as long.
    """
    with quiet():
        found = AutoencoderKL.from_pretrained(model, subfolder="vae", torch_dtype=torch.float32)
    return found.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@app.command()
def measure(
    model: Model = _MODEL,
    work: Work = _WORK,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(MEASURES)}.")] = None,
    share: Annotated[float, typer.Option(help="Measure this share of the cases.")] = 1.0,
    steps: int = 30,
    guidance: Guidance = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.")
    ] = None,
) -> None:
    """Measure the model, with seeds that training never used."""
    if unknown := set(only or ()) - set(MEASURES):
        raise typer.BadParameter(f"there is no measure {', '.join(sorted(unknown))}")
    subjects = open_subjects(model, work, share=share, steps=steps, guidance=guidance)
    figures: list[Figure] = []
    for name in only or MEASURES:
        with _console.status(name):
            found = MEASURES[name](subjects)
        for figure in found:
            _console.print(f"{figure.name}: {figure.value:.3f}", highlight=False)
        figures += found
    _console.print(as_table(figures))
    if json_file:
        lines = [dataclasses.asdict(figure) | {"reached": figure.reached} for figure in figures]
        json_file.write_text(json.dumps(lines, indent=2) + "\n", "utf-8")


def as_table(figures: list[Figure]) -> Table:
    """Return the figures as a table, with the number of cases of each."""
    table = Table("Figure", "Value", "Goal", "Cases", "Reached")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.value:.3f}",
            _DASH if figure.goal is None else f"{figure.goal:.3f}",
            str(figure.count),
            _DASH if figure.reached is None else "yes" if figure.reached else "no",
        )
    return table


@app.command()
def card(
    file: Path,
    figures: Annotated[Path, typer.Option("--json", help="What `measure --json` wrote.")],
    model: Model = _MODEL,
    work: Work = _WORK,
    history: Annotated[
        Path | None, typer.Option(help="A file with a section on how the weights were made.")
    ] = None,
) -> None:
    """Write the model's card to FILE, with the measured figures."""
    album, _ = read_album(work)
    measured = json.loads(figures.read_text("utf-8"))
    told = history.read_text("utf-8") if history else ""
    file.write_text(model_card(Painter.open(model).parts, album, measured, told), "utf-8")


@app.command()
def contacts(
    file: Path,
    model: Model = _MODEL,
    work: Work = _WORK,
    steps: int = 30,
    guidance: Guidance = None,
) -> None:
    """Write a contact sheet of 100 prompts to FILE, and the prompts to a text file beside it."""
    subjects = open_subjects(model, work, share=1.0, steps=steps, guidance=guidance)
    prompts = random_prompts(subjects.album, subjects.held, _CONTACTS, _CONTACT_SEED)
    contact_sheet(subjects, prompts).save(file)
    file.with_suffix(".txt").write_text("\n".join(p.text for p in prompts) + "\n", "utf-8")


def contact_sheet(subjects: Subjects, prompts: list[Prompt]) -> Image.Image:
    """Return one picture of each prompt, ten in a row."""
    made = subjects.make([prompt.text for prompt in prompts], _CONTACT_SEED)
    return sheet(made, _CONTACT_COLUMNS)


if __name__ == "__main__":
    app()
