"""How much memory the weights of a model take, from the headers of their files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..files import ModelFiles
from ..headers import TensorInfo, read_header
from .denoiser import DenoiserFile
from .gguf import PLAIN, read_gguf_header, tensor_bytes
from .savings import Savings

# It is small, and stays as it is.
_AUTOENCODER: Final = "vae"
_MATRIX: Final = 2
# They are looked up in, and stay as they are.
_TABLES: Final = ("embed_tokens.weight", "token_embedding.weight", "position_embedding.weight")


@dataclass(frozen=True, slots=True)
class PartSize:
    """The bytes that the weights of one part take.

    `plain` is for the weights as they are in the files, `int8` with matrices in 8 bits, and
    `largest` for the largest single tensor.
    """

    plain: int
    int8: int
    largest: int


def part_sizes(
    folder: Path, files: ModelFiles, denoiser: tuple[str, DenoiserFile] | None, itemsize: int
) -> dict[str, PartSize]:
    """Return the size of each part of a model whose numbers have `itemsize` bytes.

    `denoiser` is the name of a part with a file of its own, and that file.

    Raises:
        ModelError: the header of a file cannot be read.
    """
    sizes = {
        part: _size(_tensors(folder / name for name in weights.tensors), itemsize)
        for part, weights in files.weights.items()
    }
    if denoiser is not None:
        part, file = denoiser
        if file.is_gguf:
            sizes[part] = _gguf_size(read_gguf_header(file.path).tensors.values(), itemsize)
        else:
            sizes[part] = _size(_tensors([file.path]), itemsize)
    return sizes


def on_card(sizes: Mapping[str, PartSize], savings: Savings) -> int:
    """Return how many bytes of weights are on a card at a time at most."""
    if savings.offload == "sequential":
        return max(size.largest for size in sizes.values())
    each = [
        size.plain if savings.quantize is None or part == _AUTOENCODER else size.int8
        for part, size in sizes.items()
    ]
    return max(each) if savings.offload == "model" else sum(each)


def _tensors(files: Iterable[Path]) -> dict[str, TensorInfo]:
    return {name: info for file in files for name, info in read_header(file).tensors.items()}


def _size(tensors: Mapping[str, TensorInfo], itemsize: int) -> PartSize:
    plain = quantized = largest = 0
    for name, info in tensors.items():
        numbers = math.prod(info.shape)
        plain += numbers * itemsize
        largest = max(largest, numbers * itemsize)
        # A matrix has a scale for each row beside its numbers.
        is_matrix = len(info.shape) == _MATRIX and not name.endswith(_TABLES)
        quantized += numbers + info.shape[0] * itemsize if is_matrix else numbers * itemsize
    return PartSize(plain, quantized, largest)


def _gguf_size(tensors: Iterable[TensorInfo], itemsize: int) -> PartSize:
    """Return the size of a part in GGUF, whose matrices stay in the types of the file."""
    sizes = [
        tensor_bytes(info)
        if len(info.shape) == _MATRIX and info.dtype not in PLAIN
        else math.prod(info.shape) * itemsize
        for info in tensors
    ]
    return PartSize(sum(sizes), sum(sizes), max(sizes, default=0))
