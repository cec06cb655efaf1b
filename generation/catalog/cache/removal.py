"""Which folders of the caches belong to a model alone, and removing them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from huggingface_hub.constants import HF_ASSETS_CACHE, HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from ...errors import ModelError

_LOCKS: Final = ".locks"


def hub_folders(name: str) -> list[Path]:
    """Return the folders of a hub model in the cache, those of unfinished downloads included."""
    cache = Path(HF_HUB_CACHE)
    own = repo_folder_name(repo_id=name, repo_type="model")
    return [folder for folder in (cache / own, cache / _LOCKS / own) if folder.is_dir()]


def is_converted(folder: Path) -> bool:
    """Return whether the bot made a model's folder out of a single file."""
    return folder.resolve().is_relative_to(Path(HF_ASSETS_CACHE).expanduser().resolve())


def size_of(folders: list[Path]) -> int:
    """Return how many bytes the files in folders take; links count nothing."""
    return sum(
        path.lstat().st_size
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def remove(folders: list[Path]) -> None:
    """Remove folders.

    Raises:
        ModelError: one of them cannot be removed.
    """
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ModelError(
                f"{folder} cannot be removed ({error.strerror}); remove it as its owner."
            ) from error
