"""The header of a .gguf file, which lists the tensors; their bytes are not read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The library's own reader trusts
the counts of a file; here every number is checked against the size of the file first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ...errors import ModelError
from ..headers import HEADER_BYTES, TENSORS_MOST, TensorInfo

PLAIN: Final = frozenset({"F32", "F16", "BF16"})
"""The types that are no quantisation."""

ARCHITECTURE: Final = "general.architecture"
_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_KEYS_MOST: Final = 10_000
_DIMENSIONS_MOST: Final = 4
_ALIGNMENT: Final = "general.alignment"
# https://github.com/city96/ComfyUI-GGUF/blob/main/tools/convert.py
_SHAPE: Final = "comfy.gguf.orig_shape."
_STRING: Final = 8
_ARRAY: Final = 9
# The sizes of the other types of values, in bytes.
_VALUES: Final[Mapping[int, int]] = {
    0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8,
}  # fmt: skip
_UINT32: Final = 4
_WHOLE: Final[Mapping[int, str]] = {4: "I", 5: "i", 10: "Q", 11: "q"}
# The types that diffusers can read: their numbers in a file, the numbers in a block and the bytes
# of a block. https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
_BLOCKS: Final = {name: (numbers, size) for name, numbers, size in _TYPES.values()}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The tensors of a file by name, and what the file says of itself in texts.

    The type of a tensor is a name of the format, such as `Q4_K`, and its shape is that of the
    numbers, in the order of torch. `shapes` holds the shapes that tensors had before they were laid
    out in rows of whole blocks.
    """

    tensors: Mapping[str, TensorInfo]
    texts: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


def tensor_bytes(info: TensorInfo) -> int:
    """Return how many bytes a tensor of a .gguf file has."""
    numbers, size = _BLOCKS[info.dtype]
    return math.prod(info.shape) // numbers * size


def read_gguf_header(path: Path) -> GgufHeader:
    """Return the header of the .gguf file `path`.

    Raises:
        ModelError: the file is cut off, its header contradicts itself or the file's size, or a
            tensor has a type that cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).header()
    except OSError as error:
        raise _refused(path, error.strerror or "it cannot be read") from error
    except _Broken as error:
        raise _refused(path, str(error)) from error


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} cannot be loaded ({reason}); download the file again or choose another."
    )


class _Broken(Exception):
    """A header that is refused; the text is the part of a sentence that says why."""


class _Reader:
    """Reads the header from the start of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._texts: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._alignment = 32
        file.seek(0)

    def header(self) -> GgufHeader:
        if self._bytes(4) != _MAGIC:
            raise _Broken("it is no .gguf file")
        (version,) = self._numbers("<I")
        if version not in _VERSIONS:
            raise _Broken(f"its version {version} is unknown")
        tensors, keys = self._numbers("<QQ")
        if tensors > TENSORS_MOST or keys > _KEYS_MOST:
            raise _Broken(f"it says that it has {tensors:,} tensors and {keys:,} keys")
        for _ in range(keys):
            self._entry()
        found: dict[str, TensorInfo] = {}
        spans: list[tuple[int, int]] = []
        for _ in range(tensors):
            name, info, start = self._tensor()
            if name in found:
                raise _Broken(f"it has the tensor {name[:120]!r} a second time")
            found[name] = info
            spans.append((start, start + tensor_bytes(info)))
        self._check_spans(sorted(spans))
        return GgufHeader(found, self._texts, self._shapes)

    def _check_spans(self, spans: list[tuple[int, int]]) -> None:
        first = -(-self._file.tell() // self._alignment) * self._alignment
        end = 0
        for start, after in spans:
            if start < end or start % self._alignment:
                raise _Broken("the bytes of a tensor are not its own")
            end = after
        if first + end > self._size:
            raise _Broken("it is cut off")

    def _entry(self) -> None:
        key = self._text()
        (kind,) = self._numbers("<I")
        if kind == _STRING:
            self._texts[key] = self._text()
        elif kind == _UINT32:
            (number,) = self._numbers("<I")
            if key == _ALIGNMENT:
                self._align(number)
        elif kind == _ARRAY and key.startswith(_SHAPE):
            self._shapes[key.removeprefix(_SHAPE)] = self._shape()
        else:
            self._skip(kind)

    def _shape(self) -> tuple[int, ...]:
        inner, count = self._numbers("<IQ")
        if inner not in _WHOLE or count > _DIMENSIONS_MOST:
            raise _Broken("it has a shape that is no list of a few whole numbers")
        return self._numbers(f"<{count}{_WHOLE[inner]}")

    def _align(self, number: int) -> None:
        if number not in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise _Broken(f"it has the alignment {number}")
        self._alignment = number

    def _skip(self, kind: int) -> None:
        if kind in _VALUES:
            self._bytes(_VALUES[kind])
            return
        if kind != _ARRAY:
            raise _Broken(f"it has a value of the unknown type {kind}")
        inner, count = self._numbers("<IQ")
        if inner in _VALUES:
            self._bytes(count * _VALUES[inner])
        elif inner == _STRING:
            # Each text takes the bytes of its length at least.
            if count * 8 > HEADER_BYTES:
                raise _Broken(f"it has a list of {count:,} texts")
            for _ in range(count):
                self._text()
        else:
            raise _Broken(f"it has a list of the unknown type {inner}")

    def _tensor(self) -> tuple[str, TensorInfo, int]:
        name = self._text()
        (dimensions,) = self._numbers("<I")
        if not 0 < dimensions <= _DIMENSIONS_MOST:
            raise _Broken(f"the tensor {name[:120]!r} has {dimensions} dimensions")
        sizes = self._numbers(f"<{dimensions}Q")
        kind, start = self._numbers("<IQ")
        if kind not in _TYPES:
            raise _Broken(
                f"the tensor {name[:120]!r} has the type {kind}, which is not among "
                f"{', '.join(_BLOCKS)}"
            )
        dtype, block, _ = _TYPES[kind]
        if sizes[0] % block or not math.prod(sizes):
            raise _Broken(f"the tensor {name[:120]!r} is not made of whole blocks")
        return name, TensorInfo(dtype, tuple(reversed(sizes))), start

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        return self._bytes(length).decode("utf-8", errors="replace")

    def _numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, count: int) -> bytes:
        where = self._file.tell()
        if where + count > self._size:
            raise _Broken("it is cut off")
        if where + count > HEADER_BYTES:
            raise _Broken(f"its header is larger than {HEADER_BYTES // 2**20} MiB")
        return self._file.read(count)
