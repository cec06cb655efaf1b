"""The chunks of a PNG file (W3C, "Portable Network Graphics Specification, third edition")."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from .container import Container, DamagedFile
from .limits import EXIF_BYTES_MAX, PROFILE_BYTES_MAX, TEXT_BYTES_MAX

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# The keywords of the texts in our own files; AUTOMATIC1111's programs write the second one too.
RECIPE_CHUNK: Final = "imagine-bot"
PARAMETERS_CHUNK: Final = "parameters"
ORIGIN_CHUNK: Final = "imagine-bot-origin"
_HEADER_BYTES: Final = 13
# The length and the kind of a chunk.
_HEAD_BYTES: Final = 8
_CHUNKS_MAX: Final = 50_000
_TEXTS_READ: Final = 20
_KEYWORD_BYTES: Final = 79
_TEXT_KINDS: Final = (b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk; `sound` says whether the chunk is complete and its checksum is right."""

    kind: bytes
    data: bytes = field(repr=False)
    sound: bool


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a file; if the file is cut off, so is the last chunk.

    Raises:
        DamagedFile: the file is no PNG, or has far too many chunks.
    """
    if not data.startswith(SIGNATURE):
        raise DamagedFile("no PNG")
    start = len(SIGNATURE)
    for _ in range(_CHUNKS_MAX):
        head = data[start : start + 8]
        if len(head) < _HEAD_BYTES:
            return
        length, kind = struct.unpack(">I4s", head)
        body = data[start + 8 : start + 8 + length]
        checksum = data[start + 8 + length : start + 12 + length]
        sound = checksum == struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        yield Chunk(kind, body, sound)
        if kind == b"IEND":
            return
        start += 12 + length
    raise DamagedFile("too many chunks")


def open_png(data: bytes, *, texts: frozenset[str] = frozenset()) -> Container:
    """Return the still picture in a PNG file, with those of its texts whose names are in `texts`.

    Of an animation it is the picture for viewers without animations. A chunk beside the pixels with
    a wrong checksum is left out, as in libpng.

    Raises:
        DamagedFile: the file holds no such picture.
    """
    found = list(chunks(data))
    if not found or found[0].kind != b"IHDR" or not found[0].sound:
        raise DamagedFile("no header")
    header = found[0].data
    if len(header) != _HEADER_BYTES:
        raise DamagedFile("a header of another length")
    width, height = struct.unpack_from(">II", header)
    kept = [(b"IHDR", header)]
    kept += [(c.kind, c.data) for c in found if c.kind == b"tRNS" and c.sound][:1]
    palettes = [c for c in found if c.kind == b"PLTE"][:1]
    if not all(palette.sound for palette in palettes):
        raise DamagedFile("a damaged palette")
    kept[1:1] = [(palette.kind, palette.data) for palette in palettes]
    kept.append((b"IDAT", b"".join(c.data for c in found if c.kind == b"IDAT")))
    beside = [c for c in found if c.sound]
    return Container(
        "PNG",
        SIGNATURE + b"".join(_written(*chunk) for chunk in [*kept, (b"IEND", b"")]),
        (width, height),
        profile=_profile(beside),
        exif=next((c.data for c in beside if c.kind == b"eXIf"), b"")[:EXIF_BYTES_MAX] or None,
        texts=_texts(beside, texts),
    )


def _written(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)))


def _profile(found: list[Chunk]) -> bytes | None:
    for chunk in found:
        if chunk.kind == b"iCCP":
            _, _, rest = chunk.data.partition(b"\0")
            return inflated(rest[1:], PROFILE_BYTES_MAX)
    return None


def _texts(found: list[Chunk], wanted: frozenset[str]) -> dict[str, str]:
    """Return the texts with the keywords `wanted`; of several texts the last, as in Pillow."""
    texts: dict[str, str] = {}
    for chunk in [c for c in found if c.kind in _TEXT_KINDS][:_TEXTS_READ] if wanted else ():
        keyword, separator, rest = chunk.data.partition(b"\0")
        name = keyword[:_KEYWORD_BYTES].decode("latin-1")
        if separator and name in wanted and (text := _text(chunk.kind, rest)) is not None:
            texts[name] = text
    return texts


def _text(kind: bytes, rest: bytes) -> str | None:
    """Return the text after the keyword of a chunk, or None if it is unreadable or too long."""
    if kind == b"tEXt":
        return rest.decode("latin-1") if len(rest) <= TEXT_BYTES_MAX else None
    if kind == b"zTXt":
        plain = inflated(rest[1:], TEXT_BYTES_MAX)
        return plain.decode("latin-1") if plain is not None else None
    compressed, method = rest[:1], rest[1:2]
    _, _, rest = rest[2:].partition(b"\0")
    _, _, text = rest.partition(b"\0")
    if compressed == b"\1":
        plain = inflated(text, TEXT_BYTES_MAX) if method == b"\0" else None
        return plain.decode("utf-8", "replace") if plain is not None else None
    return text.decode("utf-8", "replace") if len(text) <= TEXT_BYTES_MAX else None


def inflated(data: bytes, most: int) -> bytes | None:
    """Return `data` decompressed, or None if it is damaged or has more than `most` bytes.

    A zip bomb costs no more than `most` bytes of memory.
    """
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, most)
    except zlib.error:
        return None
    return plain if inflater.eof else None
