"""Between image files, Pillow's images, pixels and the pictures that people see."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image, ImageOps

from ..errors import GenerationError, InvalidSource, MetadataError
from ..values.pixels import Pixels
from ..values.request import REFERENCE_AREA_MAX, REFERENCE_SIDE_MIN, SIZE_MAX, SIZE_MIN
from .chunks import PARAMETERS_CHUNK, RECIPE_CHUNK
from .limits import SOURCE_PIXELS_MAX, TEXT_BYTES_MAX

_SHOWN_MIN: Final[int] = 256
# diffusers' pipeline refuses longer pictures.
_REFERENCE_RATIO_MAX: Final = 8
# The size stands behind the signature, and the length and the kind of the first chunk.
_SIZE_AT: Final = 16
# Image.MAX_IMAGE_PIXELS
_WARNED_PIXELS: Final = 89_478_485


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


def read_recipe_png(data: bytes) -> tuple[Pixels, str, str]:
    """Return the pixels of a PNG file, and its texts: the recipe as JSON and the `parameters`.

    Raises:
        MetadataError: the file is no PNG, holds no recipe, or its recipe is far too long.
    """
    with decoding(MetadataError("That file is not a PNG picture that can be read.")):
        _check_size(data)
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()
        rgb = image.convert("RGB")
    if RECIPE_CHUNK not in image.info:
        raise MetadataError(
            "That picture holds no recipe of Imagine Bot; use a file as the bot wrote it, since "
            "uploading or editing a picture can strip its text."
        )
    recipe = str(image.info[RECIPE_CHUNK])
    if len(recipe) > TEXT_BYTES_MAX:
        raise MetadataError("The recipe in that picture cannot be used: the recipe is too long.")
    parameters = str(image.info.get(PARAMETERS_CHUNK, ""))
    return Pixels(rgb.width, rgb.height, rgb.tobytes()), recipe, parameters


def _check_size(data: bytes) -> None:
    """Refuse a picture before Pillow warns of its size; Pillow refuses twice that size itself."""
    width, height = struct.unpack_from(">II", data, _SIZE_AT)
    if SOURCE_PIXELS_MAX < width * height <= 2 * _WARNED_PIXELS:
        raise MetadataError("That picture is far too large to be one of Imagine Bot's.")


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
    """Return `image` as a reference for a model that edits: see `as_reference`.

    Raises:
        InvalidSource: the image is too small, or much longer than wide.
    """
    cropped = as_reference(image, multiple)
    return Pixels(cropped.width, cropped.height, cropped.convert("RGB").tobytes())


def as_reference(image: Image.Image, multiple: int) -> Image.Image:
    """Return `image` in the size in which a model that edits looks at it.

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
    return image.crop((left, top, left + wide, top + high))


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
