"""Image files reduced to the parts that the pixels need, without decoding a pixel.

Texts, comments, further frames, previews and videos behind the picture never reach a decoder. So
they cost neither time nor memory, and damage in them is no reason to refuse a sound picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Format = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"]

_HEIF_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_BRANDS_READ: Final = 256


class DamagedFile(ValueError):
    """A file that breaks the rules of its format."""


@dataclass(frozen=True, slots=True)
class Container:
    """A file with one still picture, reduced for a decoder, and the metadata of the file.

    `size` is width and height before the picture is turned upright, if the file states them without
    decoding. `passes` is how often a decoder goes over all pixels. `profile` is an ICC profile,
    `exif` Exif data, `texts` the texts of a PNG that may hold a recipe.
    """

    format: Format
    data: bytes = field(repr=False)
    size: tuple[int, int] | None = None
    passes: int = 1
    profile: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)


def format_of(data: bytes) -> Format | None:
    """Return the format of a file from its first bytes, or None."""
    signatures: tuple[tuple[bytes, Format], ...] = (
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
    )
    for signature, format_ in signatures:
        if data.startswith(signature):
            return format_
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return _iso_format(data)


def _iso_format(data: bytes) -> Format | None:
    """Return the format of the ISO base media family that the box `ftyp` names, or None."""
    if data[4:8] != b"ftyp":
        return None
    length = min(int.from_bytes(data[:4], "big"), _BRANDS_READ)
    brands = {data[place : place + 4] for place in (8, *range(16, length, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None
