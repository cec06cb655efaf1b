"""Which files hold textual inversions for a model, from their headers alone.

Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from ...catalog.headers import FLOATS, Header, read_header
from ...errors import ModelError

# The names of the tensors in a file for a model with two text encoders.
_PARTS: Final = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_DIMENSIONS_MOST: Final = 2


def tensors_by_part(header: Header, widths: Mapping[str, int]) -> dict[str, str] | None:
    """Return the name of the tensor with the vectors for each text encoder of a model.

    `widths` are those of the encoders by the names of their parts. None is for a file that holds no
    vectors, or those for another kind of model.
    """
    if header.tensors.keys() == _PARTS.keys() and len(widths) == len(_PARTS):
        keys = {part: key for key, part in _PARTS.items()}
    elif len(header.tensors) == 1 and len(widths) == 1:
        keys = {next(iter(widths)): next(iter(header.tensors))}
    else:
        return None
    for part, key in keys.items():
        info = header.tensors[key]
        is_right = info.dtype in FLOATS and 1 <= len(info.shape) <= _DIMENSIONS_MOST
        if not is_right or info.shape[-1] != widths.get(part):
            return None
    return keys


def may_fit(path: Path, widths: Mapping[str, int]) -> bool:
    """Return whether the file holds a textual inversion for encoders of these `widths`.

    An unchanged file is read only once.
    """
    try:
        stat = path.stat()
        return _fits(path, stat.st_size, stat.st_mtime_ns, tuple(sorted(widths.items())))
    except (OSError, ModelError):
        return False


@lru_cache(maxsize=4_096)
def _fits(path: Path, size: int, modified_ns: int, widths: tuple[tuple[str, int], ...]) -> bool:
    # Size and time are keys of the cache: a changed file is another entry.
    del size, modified_ns
    return tensors_by_part(read_header(path), dict(widths)) is not None
