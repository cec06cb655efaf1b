"""A checkpoint in one .safetensors file, made into a folder like that of any other model.

It is converted once: what the file holds is saved in the layout of diffusers, in the
cache of the hub's client, under the hash of the file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import cached_assets_path
from huggingface_hub.constants import HF_ASSETS_CACHE
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # has no __all__

from .catalog.checkpoint import Checkpoint, read_checkpoint
from .errors import ModelError, ModelNotHere
from .model_files import file_sha256

_UNFINISHED: Final = "unfinished-"
# A single file holds weights alone; all of Stable Diffusion 1 shares these configs.
CONFIGS: Final = "stable-diffusion-v1-5"
# The library, namespace and folder of `cached_assets_path`.
_NAMES: Final = ("imagine-bot", "single-files", "default")
_SHELF: Final = Path(HF_ASSETS_CACHE).expanduser().resolve().joinpath(*_NAMES)


def open_single_file(file: Path, *, only_look: bool = False) -> Path:
    """Return the folder that the checkpoint `file` was converted to, now or before.

    What a checkpoint is marked with, as a model that predicts v, is in the folder's configs. With
    `only_look` nothing is converted, and no file is written.

    Raises:
        ModelNotHere: with `only_look`, the checkpoint was not converted before.
        ModelError: there is no such file, or it is no whole Stable Diffusion 1 checkpoint.
    """
    try:
        is_there = file.is_file()
    except OSError:
        # For example, the name is too long.
        is_there = False
    if not is_there:
        raise ModelError(f"There is no file {file}; check the spelling of the model.")
    checkpoint = read_checkpoint(file)
    digest = file_sha256(file)
    try:
        # `cached_assets_path` makes the folder.
        shelf = _SHELF if only_look else cached_assets_path(*_NAMES)
        folder = shelf / f"{digest}{checkpoint.differences}"
        if only_look and not folder.is_dir():
            raise ModelNotHere(
                f"The model {file} is a whole checkpoint; the bot converts it when it first starts."
            )
        if not folder.is_dir():
            configs = download_configs(CONFIGS)
            with _alone(shelf):
                # Another process may just have done it.
                if not folder.is_dir():
                    _convert(file, checkpoint, configs, folder)
    except OSError as error:
        raise ModelError(
            f"The model {file} cannot be converted ({error.strerror or error}); it takes as much "
            "room again in the cache folder, which HF_HOME can move to another disk."
        ) from error
    return folder


def download_configs(name: str) -> Path:
    """Return the folder with the configs and the tokenizer of `name`: they are in this package."""
    return Path(__file__).with_name("configs") / name


@contextmanager
def _alone(shelf: Path) -> Iterator[None]:
    """Wait until no other process converts, and remove what a killed one left unfinished.

    The kernel lets go of the lock when its holder dies, however it dies: what is unfinished
    here once the lock is ours is nobody's.
    """
    with WeakFileLock(shelf.with_suffix(".lock")):
        for left in shelf.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _convert(file: Path, checkpoint: Checkpoint, configs: Path, folder: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        # This loads torch, which a file that was converted before does without.
        from .conversion import convert  # noqa: PLC0415

        convert(file, configs, unfinished, dtype=checkpoint.dtype)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
