"""The header of a .safetensors file, which lists the tensors; their bytes are not read.

Format: https://github.com/huggingface/safetensors#format. The library's own reader trusts a
header of up to 100 MB; here every number is checked against the size of the file first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError
from .json_reader import as_object

HEADER_BYTES: Final = 8 * 2**20
# Stable Diffusion 1 has 1,131 in its single file.
TENSORS_MOST: Final = 20_000
_DIMENSIONS_MOST: Final = 8
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_SIZES: Final[Mapping[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
FLOATS: Final = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a header; `dtype` is a name from the format, such as `F16`."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file by name, and the metadata in the header."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(path: Path, *, what: str = "the model") -> Header:
    """Return the header of the .safetensors file `path`; errors say to download `what` again.

    Raises:
        ModelError: the file is cut off, or its header contradicts itself or the file's size.
    """
    try:
        return _header(path)
    except _Broken as error:
        raise ModelError(
            f"{path} cannot be loaded ({error}); download {what} again or choose another."
        ) from error


class _Broken(Exception):
    """A header that is refused; the text is the part of a sentence that says why."""


def _header(path: Path) -> Header:
    data, size = _header_bytes(path)
    entries = as_object(data, path, unique=True)
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Broken("its metadata is no list of texts")
    spans = [(_span(name, entry), name) for name, entry in entries.items()]
    _check_spans(sorted(spans), size)
    tensors = {
        name: TensorInfo(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()
    }
    return Header(tensors, metadata)


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """Return the header's JSON, and the number of bytes that follow for tensors."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
                raise _Broken("it is cut off, or no .safetensors file")
            if length > HEADER_BYTES:
                raise _Broken(f"its header is larger than {HEADER_BYTES // 2**20} MiB")
            data = file.read(length)
    except OSError as error:
        raise _Broken(error.strerror or "it cannot be read") from error
    if data.count(b'"data_offsets"') > TENSORS_MOST:
        raise _Broken(f"it has more than {TENSORS_MOST:,} tensors")
    return data, size - _LENGTH_BYTES - length


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Return the first byte of a tensor, and the byte after the last."""
    wrong = _Broken(f"its header is wrong about the tensor {name[:120]!r}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise _Broken(f"the tensor {name[:120]!r} is of the unknown type {str(dtype)[:20]!r}")
    if not _are_sizes(shape, _DIMENSIONS_MOST) or not _are_sizes(offsets, 2):
        raise wrong
    if len(offsets) != 2 or math.prod(shape) * _SIZES[dtype] != offsets[1] - offsets[0]:  # noqa: PLR2004
        raise wrong
    return offsets[0], offsets[1]


def _are_sizes(value: Any, most: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )


def _check_spans(spans: list[tuple[tuple[int, int], str]], size: int) -> None:
    """Check that every byte belongs to exactly one tensor."""
    end = 0
    for (first, last), name in spans:
        if first != end:
            raise _Broken(f"the bytes of the tensor {name[:120]!r} are not its own")
        end = last
    if end != size:
        raise _Broken(f"it has {size:,} bytes of tensors and its header says {end:,}")
