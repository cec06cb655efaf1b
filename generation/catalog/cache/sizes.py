"""How much disk and memory the weights of a model take, from the headers of their files."""

from __future__ import annotations

import math
from pathlib import Path

from ...errors import ModelError
from ..files import ModelFiles
from ..headers import read_header


def weight_count(folder: Path, files: ModelFiles) -> int:
    """Return how many numbers the weights of a model have.

    Raises:
        ModelError: the header of a file cannot be read.
    """
    return sum(
        math.prod(tensor.shape)
        for part in files.weights.values()
        for name in part.tensors
        for tensor in read_header(folder / name).tensors.values()
    )


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
