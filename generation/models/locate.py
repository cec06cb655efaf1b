"""From a model's name to the model's folder, checked before anything is loaded.

A name is `starter` (the model that comes with the package), a folder, a single .safetensors file,
or a repository of the Hugging Face hub, which is downloaded once. Importing this module loads no
torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..catalog.files import PICKLES, DownloadProgress, pickle_sentence
from ..catalog.layout import Layout
from ..catalog.profile import ModelProfile, profile, read_configs, recognise
from ..errors import ModelError
from .families import FAMILIES

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
    only_look: bool = False,
) -> ModelProfile:
    """Return the model called `name`: `starter`, a folder, a file or a hub id as in `owner/name`.

    A file is a checkpoint in one .safetensors or .sft file, of a kind that a family lists; the
    first time it is converted to a folder in the cache. A hub model that is not in the cache is
    downloaded; `on_download` is called from other threads, one call at a time. `token` is a token
    of the hub; without one the hub's own settings count (`HF_TOKEN`, or a login). `HF_ENDPOINT` and
    `HF_HOME` always count. `prediction_type` (`epsilon` or `v_prediction`) overrules the model's
    own. With `only_look` nothing is downloaded or converted, and no file is written.

    Raises:
        ModelNotHere: with `only_look`, the model has to be downloaded or converted first.
        ModelError: there is no such model, or it cannot be downloaded, used or trusted.
    """
    if name == STARTER:
        return profile_of(starter_folder(), STARTER, prediction_type)
    path = _path(name)
    if path.suffix.lower() in PICKLES:
        raise ModelError(pickle_sentence(f"The model {name}"))
    if name and _is(Path.is_dir, path):
        return profile_of(path, path.resolve().name, prediction_type)
    if path.suffix.lower() in _SINGLE_FILES:
        # The hub's client takes a good part of a second to load, so it is loaded only if needed.
        from ..catalog.single_file import open_single_file  # noqa: PLC0415

        kinds = [kind for family in FAMILIES for kind in family.single_files]
        folder = open_single_file(path, kinds, only_look=only_look)
        return profile_of(folder, path.stem, prediction_type)
    _refuse_other_files(name, path)
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"There is no model {name!r}; use {STARTER!r}, a folder, a .safetensors file or a hub "
            "id as in owner/name."
        )
    from ..catalog.hub import download, find  # noqa: PLC0415

    if only_look:
        return profile_of(find(name, layout_of=layout_of, token=token), name, prediction_type)
    folder = download(
        name,
        layout_of=layout_of,
        check=lambda configs: read_configs(configs, name, FAMILIES, prediction_type),
        on_download=on_download,
        token=token,
    )
    return profile_of(folder, name, prediction_type)


def is_on_hub(name: str) -> bool:
    """Return whether `locate` looks for the model `name` on the hub, not on the disk.

    Raises:
        ModelError: the bot's user may not look at the path.
    """
    path = _path(name)
    is_file = path.suffix.lower() in _SINGLE_FILES | PICKLES
    return not is_file and not _is(Path.is_dir, path) and _HUB_ID.fullmatch(name) is not None


def layout_of(folder: Path) -> Layout:
    """Return the layout of the model in `folder`, of which only `model_index.json` is read.

    Raises:
        ModelError: the file cannot be read, or no family has models like this one.
    """
    return recognise(folder, FAMILIES).layout


def profile_of(folder: Path, name: str, prediction_type: str | None = None) -> ModelProfile:
    """Return the profile of the model in `folder`, after checking that the model can be used.

    `prediction_type` is as in `locate`.

    Raises:
        ModelError: the folder holds no complete model of a family with safetensors.
    """
    return profile(folder, name, FAMILIES, prediction_type=prediction_type)


def _refuse_other_files(name: str, path: Path) -> None:
    if path.suffix.lower() == ".gguf":
        raise ModelError(
            f"The model {name} is a GGUF file, which is not supported yet; choose a .safetensors "
            "file of the same model."
        )
    if name and _is(Path.is_file, path):
        raise ModelError(
            f"The model {name} is a file of a kind that is not supported; choose a folder in the "
            "layout of diffusers, or a checkpoint in one .safetensors file."
        )


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        # For example "~somebody", if this machine has no such account.
        raise ModelError(
            f"There is no home folder for the model {name!r}; give the whole path of its folder."
        ) from error


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    """Return the result of `test` for a path; it is False for a name that cannot be a path.

    Raises:
        ModelError: the bot's user may not look at the path.
    """
    try:
        return test(path)
    except PermissionError as error:
        raise ModelError(
            f"The model {path} cannot be read ({error.strerror}); let the bot's user read it, or "
            "choose another one."
        ) from error
    except OSError:
        return False
