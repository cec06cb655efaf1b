"""Between image files, Pillow's images, pixels and the pictures that people see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image, ImageOps

from ..errors import GenerationError, InvalidSource
from ..values.pixels import Pixels
from ..values.request import REFERENCE_AREA_MAX, REFERENCE_SIDE_MIN, SIZE_MAX, SIZE_MIN
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
    "reference_pixels",
    "shown_factor",
    "to_image",
    "to_pixels",
]
_SHOWN_MIN: Final[int] = 256
# diffusers' pipeline refuses longer pictures.
_REFERENCE_RATIO_MAX: Final = 8


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


def reference_pixels(image: Image.Image, multiple: int) -> Pixels:
    """Return `image` as a reference for a model that edits.

    A larger image than REFERENCE_AREA_MAX is scaled down to that area with Lanczos. Its sides are
    cropped to multiples of `multiple`, equally on both sides. Flux2KleinPipeline of diffusers does
    the same.

    Raises:
        InvalidSource: the image is too small, or much longer than wide.
    """
    width, height = image.size
    if min(width, height) < REFERENCE_SIDE_MIN:
        raise InvalidSource(
            f"That picture is {width}x{height}; a reference needs at least {REFERENCE_SIDE_MIN} "
            "pixels on each side."
        )
    if max(width, height) > _REFERENCE_RATIO_MAX * min(width, height):
        raise InvalidSource(
            f"That picture is {width}x{height}; crop it, since a reference may be at most "
            f"{_REFERENCE_RATIO_MAX} times as long as wide."
        )
    if width * height > REFERENCE_AREA_MAX:
        scale = math.sqrt(REFERENCE_AREA_MAX / (width * height))
        width, height = int(width * scale), int(height * scale)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    wide, high = width // multiple * multiple, height // multiple * multiple
    left, top = (width - wide) // 2, (height - high) // 2
    cropped = image.crop((left, top, left + wide, top + high))
    return Pixels(wide, high, cropped.convert("RGB").tobytes())


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
