"""The model card: fills the training and the figures of a model into `CARD.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ...models.stable_diffusion import StableDiffusion
from .drawings.drawing import Album
from .drawings.scenes import COLOURS
from .drawings.sources import NAMES, PACKAGES
from .drawings.things import STYLES
from .export import TRAINING
from .learning.networks import WORDS, parameters

_TEMPLATE: Final = Path(__file__).with_name("CARD.md")
_MILLION: Final = 1e6


def card(
    parts: StableDiffusion,
    album: Album,
    figures: Sequence[Mapping[str, Any]],
    history: str = "",
) -> str:
    """Return the card of the model `parts`, in Markdown.

    `history` is a section on how the weights were made, if not by the card's commands.
    """
    vae, unet = parts.vae.config, parts.unet.config
    names = ("autoencoder", "unet", "text_encoder")
    sizes = [parameters(part) for part in (parts.vae, parts.unet, parts.text_encoder)]
    counts = json.loads((parts.profile.folder / TRAINING).read_text("utf-8"))
    return _TEMPLATE.read_text("utf-8").format(
        edge=parts.profile.native_size,
        latents=f"{vae.latent_channels}x{unet.sample_size}x{unet.sample_size}",
        vocabulary=f"{len(parts.tokenizer):,}",
        # The first token of a text marks its start, the last one its end.
        words=WORDS - 2,
        **{name: f"{size / _MILLION:.1f}" for name, size in zip(names, sizes, strict=True)},
        megabytes=f"{2 * sum(sizes) / _MILLION:.1f}",
        images=f"{counts['diffusion']['images']:,}",
        crops=f"{counts['autoencoder']['images']:,}",
        scenes=f"{counts['diffusion']['scenes']:,}",
        things=f"{len(album.things):,}",
        pictures=f"{len(album.pictures):,}",
        styles=", ".join(STYLES),
        colours=", ".join(COLOURS),
        packages="\n".join(
            f"| `{package.name}` | {package.version} | {package.licence} | "
            f"{'names and keywords' if package is NAMES else 'pictures'} |"
            for package in PACKAGES
        ),
        guidance=f"{parts.profile.default_guidance_scale:g}",
        figures=figures_table(figures),
    ) + (f"\n{history.strip()}\n" if history else "")


def figures_table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures, as `evaluate measure --json` writes them, as a Markdown table."""
    lines = ["| Figure | Value | Goal | Cases |", "| --- | --- | --- | --- |"]
    for figure in figures:
        goal = "" if figure["goal"] is None else f"{figure['goal']:.2f}"
        lines.append(f"| {figure['name']} | {figure['value']:.3f} | {goal} | {figure['count']} |")
    return "\n".join(lines)
