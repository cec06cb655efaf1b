"""The segments of a JPEG file (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from .container import Container, DamagedFile
from .limits import PROFILE_BYTES_MAX

_SOI: Final = b"\xff\xd8"
_EOI: Final = b"\xff\xd9"
# A marker that is no stuffed FF 00, no fill byte and no restart within a scan.
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN: Final = 0xDA
_END: Final = 0xD9
_BARE: Final = frozenset({0x01, 0xD8})
# The markers of frames: all in this range but DHT, JPG and DAC.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APPLICATION: Final = range(0xE0, 0xF0)
_COMMENT: Final = 0xFE
_JFIF, _EXIF, _ICC, _ADOBE = b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0", b"Adobe"
# These segments say how the numbers become colors.
_KEPT: Final = ((0xE0, _JFIF), (0xEE, _ADOBE))
_APP1, _APP2 = 0xE1, 0xE2
# The bytes of a frame up to the height and the width.
_FRAME_BYTES: Final = 5
_SEGMENTS_MAX: Final = 5_000


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    body: bytes = field(repr=False)
    # The data of a scan include the pixels behind its header.
    whole: bytes = field(repr=False)


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments of the first picture in a file, up to its end or where it is cut off."""
    start = len(_SOI)
    for _ in range(_SEGMENTS_MAX):
        found = _MARKER.search(data, start)
        if found is None:
            return
        kind, start = data[found.start() + 1], found.end()
        if kind == _END:
            yield _Segment(kind, b"", _EOI)
            return
        if kind in _BARE:
            continue
        if len(data) < start + 2:
            return
        end = start + int.from_bytes(data[start : start + 2], "big")
        body = data[start + 2 : end]
        if kind == _START_OF_SCAN:
            following = _MARKER.search(data, end)
            end = following.start() if following else len(data)
        yield _Segment(kind, body, data[found.start() : end])
        start = end
    raise DamagedFile("too many segments")


def open_jpeg(data: bytes) -> Container:
    """Return the first picture in a JPEG file, without the data of cameras beside and behind it.

    Raises:
        DamagedFile: there is no picture in it.
    """
    size, passes, kept = None, 0, [_SOI]
    profile: dict[int, bytes] = {}
    exif = None
    for segment in _segments(data):
        if segment.kind in _APPLICATION or segment.kind == _COMMENT:
            if any(segment.kind == kind and segment.body.startswith(name) for kind, name in _KEPT):
                kept.append(segment.whole)
            elif segment.kind == _APP1 and segment.body.startswith(_EXIF):
                exif = exif or segment.body
            elif segment.kind == _APP2 and segment.body.startswith(_ICC):
                # The number of this part from 1, the number of all parts, and the part.
                profile.setdefault(*_part(segment.body[len(_ICC) :]))
            continue
        if segment.kind in _FRAMES and len(segment.body) >= _FRAME_BYTES:
            size = size or struct.unpack_from(">xHH", segment.body)
        passes += segment.kind == _START_OF_SCAN
        kept.append(segment.whole)
    if size is None or not passes:
        raise DamagedFile("no picture")
    height, width = size
    return Container(
        "JPEG",
        b"".join(kept),
        (width, height),
        passes,
        profile=_joined(profile),
        exif=exif,
    )


def _part(body: bytes) -> tuple[int, bytes]:
    return (body[0] if body else 0), body[2:]


def _joined(parts: dict[int, bytes]) -> bytes | None:
    profile = b"".join(parts[number] for number in sorted(parts))
    return profile if 0 < len(profile) <= PROFILE_BYTES_MAX else None
