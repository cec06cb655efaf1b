"""Between image files, Pillow's images, pixels and the pictures that people see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image, ImageOps

from ..errors import GenerationError
from ..values.pixels import Pixels
from ..values.request import SIZE_MAX, SIZE_MIN
from .files import read_image
from .limits import SOURCE_BYTES_MAX, SOURCE_PIXELS_MAX

__all__ = [
    "SOURCE_BYTES_MAX",
    "SOURCE_PIXELS_MAX",
    "decoding",
    "enlarged",
    "fitted",
    "fitted_size",
    "read_source",
    "shown_factor",
    "to_image",
    "to_pixels",
]
_SHOWN_MIN: Final[int] = 256


def read_source(data: bytes) -> Image.Image:
    """Return the image in the file `data`, upright and in RGB, transparency on white.

    A separate process reads the file (`generation.images.files`).

    Raises:
        InvalidSource: the file is no image, is damaged, is larger than 25 MiB or 40 million pixels
            (a JPEG 210 million), or takes too much time or memory to read.
    """
    return read_image(data)


@contextmanager
def decoding(failure: GenerationError) -> Iterator[None]:
    """Raise `failure` for any error of Pillow in this block."""
    try:
        yield
    except GenerationError:
        raise
    # Malicious bytes cause more errors than Pillow documents: struct.error, IndexError, TypeError.
    except Exception as error:
        raise failure from error


def fitted_size(
    width: int, height: int, *, native: int, multiple: int, most: int = SIZE_MAX
) -> tuple[int, int]:
    """Return the size for a picture of this shape on a model of size `native`.

    The shape is kept as nearly as multiples of `multiple` allow, with about as many pixels as the
    model was trained on. No side is longer than `most`.
    """
    scale = native / math.sqrt(width * height)
    low = math.ceil(SIZE_MIN / multiple) * multiple
    high = min(most, SIZE_MAX) // multiple * multiple

    def fit(side: int) -> int:
        nearest = round(side * scale / multiple) * multiple
        return min(max(nearest, low), high)

    return fit(width), fit(height)


def fitted(
    image: Image.Image,
    *,
    native: int,
    multiple: int,
    most: int = SIZE_MAX,
    width: int | None = None,
    height: int | None = None,
) -> Image.Image:
    """Return `image` in the size that `fitted_size` returns; a side can be given."""
    wide, high = fitted_size(*image.size, native=native, multiple=multiple, most=most)
    return _filling(image, width or wide, height or high)


def to_pixels(image: Image.Image, width: int, height: int) -> Pixels:
    """Return `image` scaled with Lanczos to fill `width` x `height`; what protrudes is cropped."""
    return Pixels(width, height, _filling(image, width, height).convert("RGB").tobytes())


def _filling(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_image(pixels: Pixels) -> Image.Image:
    """Return `pixels` as a Pillow image."""
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)


def shown_factor(width: int, height: int) -> int:
    """Return the whole factor by which a picture is enlarged for people: 1 from 256 pixels on."""
    return -(-_SHOWN_MIN // max(width, height))


def enlarged(image: Image.Image, factor: int) -> Image.Image:
    """Return `image` with every pixel repeated `factor` times in both directions."""
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
