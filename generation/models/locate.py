"""From a model's name to the model's folder, checked before anything is loaded.

A name is `starter` (the model that comes with the package), a folder, a single .safetensors file,
or a repository of the Hugging Face hub, which is downloaded once. With a base, a name is that of a
file with only the denoiser. Importing this module loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..catalog.addons.autoencoder import find_autoencoder
from ..catalog.files import PICKLES, SAFETENSORS, DownloadProgress, pickle_sentence
from ..catalog.layout import Layout
from ..catalog.memory.denoiser import GGUF, DenoiserFile, read_denoiser
from ..catalog.memory.savings import NO_SAVINGS, Savings
from ..catalog.profile import ModelProfile, profile, read_configs, recognise
from ..errors import ModelError
from .families import FAMILIES

STARTER: Final = "starter"

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
    base: str | None = None,
    savings: Savings = NO_SAVINGS,
    vae: str | None = None,
    only_look: bool = False,
) -> ModelProfile:
    """Return the model called `name`: `starter`, a folder, a file or a hub id as in `owner/name`.

    A file is a checkpoint in one .safetensors or .sft file, of a kind that a family lists; the
    first time it is converted to a folder in the cache. A hub model that is not in the cache is
    downloaded; `on_download` is called from other threads, one call at a time. `token` is a token
    of the hub; without one the hub's own settings count (`HF_TOKEN`, or a login). `HF_ENDPOINT` and
    `HF_HOME` always count. `prediction_type` (`epsilon` or `v_prediction`) overrules the model's
    own. With `only_look` nothing is downloaded or converted, and no file is written.

    With a `base` the model is a .gguf or .safetensors file with only the UNet or the transformer.
    All other parts are those of `base`, a folder or a hub id. `savings` go into the profile. `vae`
    is an autoencoder in place of the model's: a .safetensors file, or a folder.

    Raises:
        ModelNotHere: with `only_look`, the model has to be downloaded or converted first.
        ModelError: there is no such model, or it cannot be downloaded, used or trusted.
    """
    find = _Finder(on_download, token, prediction_type, only_look)
    found = find.whole(name) if base is None else find.denoiser(name, base)
    autoencoder = None if vae is None else find_autoencoder(vae, found.folder)
    return replace(found, savings=savings, autoencoder=autoencoder)


@dataclass(frozen=True, slots=True)
class _Finder:
    """How models are looked for; the fields are arguments of `locate`."""

    on_download: Callable[[DownloadProgress], None] | None
    token: str | None
    prediction_type: str | None
    only_look: bool

    def denoiser(self, name: str, base: str) -> ModelProfile:
        """Return the model whose denoiser is the file `name`, with the other parts of `base`."""
        path = _path(name)
        if path.suffix.lower() in PICKLES:
            raise ModelError(pickle_sentence(f"The model {name}"))
        if path.suffix.lower() not in {GGUF, *SAFETENSORS}:
            raise ModelError(
                f"The model {name} has a base, so it has to be a .gguf or .safetensors file with "
                "only the denoiser; leave the base out for a whole model."
            )
        denoiser = read_denoiser(path)
        if _path(base).suffix.lower() in {GGUF, *SAFETENSORS}:
            raise ModelError(
                f"The base {base} is a single file; name a folder in the layout of diffusers or a "
                "hub id, which has all parts of the model."
            )
        found = self.whole(base, denoiser)
        return replace(found, name=path.stem)

    def whole(self, name: str, denoiser: DenoiserFile | None = None) -> ModelProfile:
        """Return the model called `name`, which may lack the weights that `denoiser` has."""
        if name == STARTER:
            return profile_of(starter_folder(), STARTER, self.prediction_type, denoiser)
        path = _path(name)
        if path.suffix.lower() in PICKLES:
            raise ModelError(pickle_sentence(f"The model {name}"))
        if name and _is(Path.is_dir, path):
            return profile_of(path, path.resolve().name, self.prediction_type, denoiser)
        if path.suffix.lower() in SAFETENSORS:
            # The hub's client takes a good part of a second to load, so it is loaded only if
            # needed.
            from ..catalog.single_file import open_single_file  # noqa: PLC0415

            kinds = [kind for family in FAMILIES for kind in family.single_files]
            folder = open_single_file(path, kinds, only_look=self.only_look)
            return profile_of(folder, path.stem, self.prediction_type, denoiser)
        _refuse_other_files(name, path)
        if not _HUB_ID.fullmatch(name):
            raise ModelError(
                f"There is no model {name!r}; use {STARTER!r}, a folder, a .safetensors file or a "
                "hub id as in owner/name."
            )
        folder = self._of_hub(name, denoiser)
        return profile_of(folder, name, self.prediction_type, denoiser)

    def _of_hub(self, name: str, denoiser: DenoiserFile | None) -> Path:
        from ..catalog.hub import download, find  # noqa: PLC0415

        def layout(folder: Path) -> Layout:
            return layout_for(layout_of(folder), denoiser)

        if self.only_look:
            return find(name, layout_of=layout, token=self.token)
        return download(
            name,
            layout_of=layout,
            check=lambda configs: read_configs(configs, name, FAMILIES, self.prediction_type),
            on_download=self.on_download,
            token=self.token,
        )


def layout_for(layout: Layout, denoiser: DenoiserFile | None) -> Layout:
    """Return what a model's folder has to hold, if `denoiser` has the weights of its denoiser."""
    return layout if denoiser is None else layout.without_denoiser()


def is_on_hub(name: str) -> bool:
    """Return whether `locate` looks for the model `name` on the hub, not on the disk.

    Raises:
        ModelError: the bot's user may not look at the path.
    """
    path = _path(name)
    is_file = path.suffix.lower() in SAFETENSORS | PICKLES
    return not is_file and not _is(Path.is_dir, path) and _HUB_ID.fullmatch(name) is not None


def layout_of(folder: Path) -> Layout:
    """Return the layout of the model in `folder`, of which only `model_index.json` is read.

    Raises:
        ModelError: the file cannot be read, or no family has models like this one.
    """
    return recognise(folder, FAMILIES).layout


def profile_of(
    folder: Path,
    name: str,
    prediction_type: str | None = None,
    denoiser: DenoiserFile | None = None,
) -> ModelProfile:
    """Return the profile of the model in `folder`, after checking that the model can be used.

    `prediction_type` is as in `locate`. With a `denoiser` the folder needs no weights of that part.

    Raises:
        ModelError: the folder holds no complete model of a family with safetensors.
    """
    families = [replace(family, layout=layout_for(family.layout, denoiser)) for family in FAMILIES]
    found = profile(folder, name, families, prediction_type=prediction_type)
    return replace(found, denoiser=denoiser)


def _refuse_other_files(name: str, path: Path) -> None:
    if path.suffix.lower() == GGUF:
        raise ModelError(
            f"The model {name} is a GGUF file, which holds only the denoiser; set `base` to a "
            "folder or a hub id that has the other parts of the model."
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
