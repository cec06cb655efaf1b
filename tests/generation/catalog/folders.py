"""A folder of a model for tests that read no weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from generation.models.locate import starter_folder

Edit = Callable[[str, dict[str, Any]], None]
"""Changes values in a JSON file of the folder."""

UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = (
    "text_encoder/model.safetensors",
    UNET,
    "vae/diffusion_pytorch_model.safetensors",
)


def configs_of_the_starter(tmp_path: Path) -> Path:
    """The starter's configs with a few bytes for weights, which nothing here opens."""
    made = tmp_path / "rabbit"
    shutil.copytree(starter_folder(), made, ignore=shutil.ignore_patterns("*.safetensors"))
    for name in WEIGHTS:
        (made / name).write_bytes(name.encode() * 1000)
    return made
