"""GIF, BMP and WebP files: their size, and the part of them for a decoder."""

from __future__ import annotations

import struct
from typing import Final

from .container import Container, DamagedFile

_SCREEN_BYTES: Final = 13
_EXTENSION, _IMAGE = 0x21, 0x2C
_GRAPHIC_CONTROL: Final = 0xF9
# Blocks before the first picture; programs write a handful.
_BLOCKS_MAX: Final = 10_000
_TRAILER: Final = b";"
_RLE: Final = (1, 2)
_BMP_OLD_HEADER: Final = 12
# Up to the compression, and of the first chunk up to where each kind has the size.
_BMP_BYTES: Final = 34
_WEBP_BYTES: Final = 10


class RunLengthBitmap(DamagedFile):
    """A compressed bitmap. Such files are rare, and a few bytes can stand for any work."""


def open_gif(data: bytes) -> Container:
    """Return the first picture of a GIF file (CompuServe, "GIF89a Specification").

    Raises:
        DamagedFile: there is none in it.
    """
    if len(data) < _SCREEN_BYTES:
        raise DamagedFile("no screen")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    start = _SCREEN_BYTES + _table_bytes(flags)
    screen, control = data[:start], b""
    for _ in range(_BLOCKS_MAX):
        kind = data[start : start + 1]
        if kind == bytes([_IMAGE]):
            end = _end_of_image(data, start)
            left, top, wide, high = struct.unpack_from("<HHHH", data, start + 1)
            size = (max(width, left + wide), max(height, top + high))
            return Container("GIF", screen + control + data[start:end] + _TRAILER, size)
        if kind != bytes([_EXTENSION]):
            break
        end = _end_of_blocks(data, start + 2)
        if data[start + 1 : start + 2] == bytes([_GRAPHIC_CONTROL]):
            control = data[start:end]
        start = end
    raise DamagedFile("no picture")


def _table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_image(data: bytes, start: int) -> int:
    if len(data) < start + 11:
        raise DamagedFile("a picture that is cut off")
    # The descriptor, the local palette, and the size of the first code.
    return _end_of_blocks(data, start + 10 + _table_bytes(data[start + 9]) + 1)


def _end_of_blocks(data: bytes, start: int) -> int:
    """Return the end of the blocks of up to 255 bytes from `start` on, terminator included."""
    while start < len(data) and data[start]:
        start += 1 + data[start]
    return min(start + 1, len(data))


def open_bmp(data: bytes) -> Container:
    """Return a bitmap as it is.

    Raises:
        RunLengthBitmap: it is compressed.
        DamagedFile: it has no header.
    """
    if len(data) < _BMP_BYTES:
        raise DamagedFile("no header")
    (header,) = struct.unpack_from("<I", data, 14)
    if header == _BMP_OLD_HEADER:
        return Container("BMP", data, struct.unpack_from("<HH", data, 18))
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in _RLE:
        raise RunLengthBitmap("a compressed bitmap")
    return Container("BMP", data, (abs(width), abs(height)))


def open_webp(data: bytes) -> Container:
    """Return a WebP file as it is (RFC 9649, section 2).

    Raises:
        DamagedFile: it does not begin with a picture.
    """
    kind, body = data[12:16], data[20:30]
    if len(body) < _WEBP_BYTES:
        raise DamagedFile("no picture")
    if kind == b"VP8X":
        size = tuple(1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        size = tuple(side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    else:
        raise DamagedFile("no picture")
    return Container("WEBP", data, (size[0], size[1]))
