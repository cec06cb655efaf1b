"""Pixels as PNG files without metadata, and back."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from generation.values.pixels import Pixels


def encode_png(pixels: Pixels) -> bytes:
    """Return a PNG file of the pixels, without metadata."""
    file = io.BytesIO()
    size = (pixels.width, pixels.height)
    Image.frombytes("RGB", size, pixels.rgb).save(file, format="PNG")
    return file.getvalue()


def decode_png(data: bytes) -> Pixels:
    """Return the pixels of a PNG file.

    Raises:
        ValueError: the bytes are not a PNG file.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("the bytes are no PNG file") from error
    return Pixels(rgb.width, rgb.height, rgb.tobytes())
