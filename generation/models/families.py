"""The families of models that the engine can run: one line for each."""

from __future__ import annotations

from typing import Final

from .family import Model
from .stable_diffusion import StableDiffusion

FAMILIES: Final[tuple[type[Model], ...]] = (StableDiffusion,)


def family_of(pipeline: str) -> type[Model]:
    """Return the family whose models say `pipeline` in `_class_name` of model_index.json.

    Raises:
        LookupError: there is no such family.
    """
    for family in FAMILIES:
        if pipeline in family.layout.pipelines:
            return family
    raise LookupError(f"no family of models is made for {pipeline}")
