"""The tiny checkpoints of every family, and diffusers' pipelines on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from generation.models.families import (
    FLUX2_KLEIN,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_3,
    STABLE_DIFFUSION_XL,
    Z_IMAGE,
)
from generation.values.request import GenerationRequest

from ..generation.flux2_klein import Flux2KleinPipelines, make_flux2_klein
from ..generation.pipelines import Pipelines, save_small_sd15
from ..generation.sd2 import make_sd2, reference_sd2
from ..generation.sd3 import make_sd3, reference_sd3
from ..generation.sdxl import make_sdxl, reference_sdxl
from ..generation.z_image import make_z_image, reference_z_image

_GUIDED: Final = {"guidance_scale": 5.0, "negative_prompt": "dark"}


class Reference(Protocol):
    """The pipelines of diffusers on one checkpoint."""

    def picture(self, request: GenerationRequest) -> np.ndarray:
        """Return the first picture of `request`, [height, width, 3]."""


class Load(Protocol):
    """Loads the pipelines from a folder; unless `stock`, with our kernels."""

    def __call__(self, folder: Path, *, stock: bool = False) -> Reference: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A tiny model with random weights.

    `make` saves it in a folder, in the layout of its release. `values` go into every request.
    `edits_from_image` says that the pipeline which starts from a picture also reads that picture as
    the first reference.
    """

    name: str
    family: str
    make: Callable[[Path], None]
    reference: Load
    values: Mapping[str, Any] = field(default_factory=lambda: _GUIDED)
    edits_from_image: bool = False


CHECKPOINTS: Final = (
    Checkpoint(
        name="Stable Diffusion 1.5",
        family=STABLE_DIFFUSION.name,
        make=save_small_sd15,
        reference=Pipelines.load,
    ),
    Checkpoint(
        name="Stable Diffusion 2 (predicts v)",
        family=STABLE_DIFFUSION.name,
        make=make_sd2,
        reference=reference_sd2,
    ),
    Checkpoint(
        name="Stable Diffusion XL",
        family=STABLE_DIFFUSION_XL.name,
        make=make_sdxl,
        reference=reference_sdxl,
    ),
    Checkpoint(
        name="FLUX.2 klein",
        family=FLUX2_KLEIN.name,
        make=make_flux2_klein,
        reference=Flux2KleinPipelines.load,
        values={"guidance_scale": 1.0},
        edits_from_image=True,
    ),
    Checkpoint(
        name="FLUX.2 klein base",
        family=FLUX2_KLEIN.name,
        make=partial(make_flux2_klein, distilled=False),
        reference=Flux2KleinPipelines.load,
        edits_from_image=True,
    ),
    Checkpoint(
        name="Z-Image",
        family=Z_IMAGE.name,
        make=make_z_image,
        reference=reference_z_image,
    ),
    Checkpoint(
        name="Stable Diffusion 3.5",
        family=STABLE_DIFFUSION_3.name,
        make=make_sd3,
        reference=reference_sd3,
    ),
)


def chosen(*, families: Collection[str] | None = None, short: bool = False) -> list[Checkpoint]:
    """Return the checkpoints of some families, or of all; if `short` the first of each family."""
    found = [one for one in CHECKPOINTS if families is None or one.family in families]
    if not short:
        return found
    # The last of these pairs wins, so the first checkpoint has to come last.
    return list({one.family: one for one in reversed(found)}.values())[::-1]
