"""Pixels of a picture as plain bytes, and their hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


def pixels_sha256(width: int, height: int, rgb: bytes) -> str:
    """Return the SHA-256 of an image's size and its RGB bytes, row by row, as hex digits.

    The hash depends on the pixels alone, not on how a file packs them.
    """
    return hashlib.sha256(f"{width}x{height}:".encode() + rgb).hexdigest()


@dataclass(frozen=True, slots=True)
class Pixels:
    """An 8-bit RGB image: `3 * width * height` bytes, row by row from the top left."""

    width: int
    height: int
    rgb: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.rgb) != 3 * self.width * self.height:
            raise ValueError(f"{len(self.rgb)} bytes are no {self.width}x{self.height} RGB image")

    @property
    def sha256(self) -> str:
        """Return the hash that recipes and the database use for these pixels."""
        return pixels_sha256(self.width, self.height, self.rgb)


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """The size of a picture whose pixels are stored, but not in memory."""

    width: int
    height: int

    @classmethod
    def of(cls, pixels: Pixels | StoredPixels) -> StoredPixels:
        """Return the size of `pixels`."""
        return cls(pixels.width, pixels.height)
