"""Which LoRAs may fit a model, from the headers of their files alone.

This is for suggestions: whether a LoRA really fits is checked where it is read. Importing this
module loads no torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from ...catalog.files import list_folder, select_files
from ...catalog.headers import TensorInfo, read_header
from ...catalog.layout import Layout
from ...catalog.parts import find_tensors
from ...errors import ModelError
from .layouts import DOWN, UP, split_name

Size: TypeAlias = tuple[int, int]
"""The rows and the columns of a weight; those of a convolution have all of its kernel."""

_PARTS: Final = frozenset({"unet", "transformer", "text_encoder", "text_encoder_2"})
_WEIGHT: Final = ".weight"
_MATRIX: Final = 2
# Some LoRAs change queries, keys and values at once, as the networks of some authors have them.
_FUSED: Final = (1, 3)


def weight_sizes(folder: Path, layout: Layout) -> frozenset[Size]:
    """Return the sizes of the weights that a LoRA for the model in `folder` may change.

    Raises:
        ModelError: a file of the model cannot be read.
    """
    files = select_files(list_folder(folder), layout, f"The model in {folder}")
    sizes = set[Size]()
    for part, weights in files.weights.items():
        if part in _PARTS:
            for name, place in find_tensors(folder, weights, ()).items():
                shape = place.info.shape
                if name.endswith(_WEIGHT) and len(shape) >= _MATRIX:
                    sizes.add((shape[0], math.prod(shape[1:])))
    return frozenset(sizes)


def may_fit(path: Path, sizes: frozenset[Size]) -> bool:
    """Return whether the file is a LoRA whose changes all have the size of a weight.

    An unchanged file is read only once.
    """
    try:
        stat = path.stat()
        changed = _changed_sizes(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, ModelError):
        return False
    return bool(changed) and all(
        any(rows % times == 0 and (rows // times, columns) in sizes for times in _FUSED)
        for rows, columns in changed
    )


@lru_cache(maxsize=4_096)
def _changed_sizes(path: Path, size: int, modified_ns: int) -> frozenset[Size]:
    # Size and time are keys of the cache: a changed file is another entry.
    del size, modified_ns
    layers: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, info in read_header(path).tensors.items():
        if (split := split_name(name)) is not None:
            layers[split.layer][split.role] = info
    return frozenset(found for roles in layers.values() for found in _size(roles))


def _size(roles: Mapping[str, TensorInfo]) -> Iterator[Size]:
    """Yield the size of a change, where two tensors alone tell it: of a LoRA, and of most LoHas."""
    for rows, columns in ((UP, DOWN), ("hada_w1_a", "hada_w1_b")):
        if rows in roles and columns in roles and "hada_t1" not in roles:
            yield roles[rows].shape[0], math.prod(roles[columns].shape[1:])
