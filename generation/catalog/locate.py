"""From a model's name to the model's folder, checked before anything is loaded.

A name is `starter` (the model that comes with the package), a folder, a single .safetensors file,
or a repository of the Hugging Face hub, which is downloaded once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import ModelError
from .files import PICKLES, DownloadProgress, pickle_sentence
from .profile import ModelProfile, profile, read_configs

STARTER: Final = "starter"

_SINGLE_FILES: Final = frozenset({".safetensors", ".sft"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def starter_folder() -> Path:
    """Return the folder of the model that comes with the package."""
    return Path(__file__).parents[1] / "starter"


def locate(
    name: str,
    *,
    on_download: Callable[[DownloadProgress], None] | None = None,
    token: str | None = None,
    prediction_type: str | None = None,
) -> ModelProfile:
    """Return the model called `name`: `starter`, a folder, a file or a hub id as in `owner/name`.

    A file is a checkpoint of Stable Diffusion 1 in one .safetensors or .sft file; the first time it
    is converted to a folder in the cache. A hub model that is not in the cache is downloaded;
    `on_download` is called from other threads, one call at a time. `token` is a token of the hub;
    without one the hub's own settings count (`HF_TOKEN`, or a login). `HF_ENDPOINT` and `HF_HOME`
    always count. `prediction_type` (`epsilon` or `v_prediction`) overrules the model's own.

    Raises:
        ModelError: there is no such model, or it cannot be downloaded, used or trusted.
    """
    if name == STARTER:
        return profile(starter_folder(), STARTER, prediction_type=prediction_type)
    path = Path(name).expanduser()
    if path.suffix.lower() in PICKLES:
        raise ModelError(pickle_sentence(f"The model {name}"))
    if name and path.is_dir():
        return profile(path, path.resolve().name, prediction_type=prediction_type)
    if path.suffix.lower() == ".gguf":
        raise ModelError(
            f"The model {name} is a GGUF file, which is not supported yet; choose a .safetensors "
            "file of the same model."
        )
    if path.suffix.lower() in _SINGLE_FILES:
        # The hub's client takes a good part of a second to load, so it is loaded only if needed.
        from .single_file import open_single_file  # noqa: PLC0415

        return profile(open_single_file(path), path.stem, prediction_type=prediction_type)
    if _HUB_ID.fullmatch(name):
        from .hub import download  # noqa: PLC0415

        folder = download(
            name,
            check=lambda configs: read_configs(configs, name, prediction_type),
            on_download=on_download,
            token=token,
        )
        return profile(folder, name, prediction_type=prediction_type)
    raise ModelError(
        f"There is no model {name!r}; use {STARTER!r}, a folder, a .safetensors file or a hub id "
        "as in owner/name."
    )
