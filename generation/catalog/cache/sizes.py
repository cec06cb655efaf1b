"""How much of a disk the files of a model take."""

from __future__ import annotations

from pathlib import Path

from ...errors import ModelError
from ..files import ModelFiles


def disk_bytes(folder: Path, files: ModelFiles) -> int:
    """Return how many bytes the files of a model have on disk.

    Raises:
        ModelError: a file cannot be looked at.
    """
    try:
        return sum((folder / name).stat().st_size for name in files.names)
    except OSError as error:
        raise ModelError(
            f"The model in {folder} cannot be read ({error.strerror}); let the bot's user read it."
        ) from error
