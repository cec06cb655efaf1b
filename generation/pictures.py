"""Image files from outside into pixels, and pixels into what people are shown."""

from __future__ import annotations

import io
import math
import warnings
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InvalidSource
from .request import SIZE_MAX, SIZE_MIN, Pixels

SOURCE_BYTES_MAX: Final = 25 * 2**20
SOURCE_PIXELS_MAX: Final = 40_000_000
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_SHOWN_MIN: Final[int] = 256


def read_source(data: bytes) -> Image.Image:
    """Return the image in the file `data`, upright and in RGB, transparency on white.

    Raises:
        InvalidSource: it is no image (whatever its name says), is animated, damaged, or larger
            than 25 MiB or 40 million pixels.
    """
    if len(data) > SOURCE_BYTES_MAX:
        raise InvalidSource(
            f"That file has {len(data) / 2**20:.0f} MiB; send an image of at most "
            f"{SOURCE_BYTES_MAX // 2**20} MiB."
        )
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a decompression bomb below twice its limit; ours is checked next.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise InvalidSource(
                f"That image has too many pixels; send one of at most "
                f"{SOURCE_PIXELS_MAX // 1_000_000} million."
            ) from error
        raise InvalidSource(
            "That file is not an image that I can read; send a PNG, JPEG or WebP picture."
        ) from error
    if image.width * image.height > SOURCE_PIXELS_MAX:
        raise InvalidSource(
            f"That image has {image.width:,} x {image.height:,} pixels; send one of at most "
            f"{SOURCE_PIXELS_MAX // 1_000_000} million."
        )
    if getattr(image, "n_frames", 1) > 1:
        raise InvalidSource("That image is animated; send a still picture.")
    try:
        return _upright_rgb(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidSource(
            "That image is damaged; save it again and send it once more."
        ) from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("RGB")


def fitted_size(width: int, height: int, *, native: int, multiple: int) -> tuple[int, int]:
    """Return the size to work at for a picture of this shape on a model of size `native`.

    The shape is kept as nearly as multiples of `multiple` allow, with about as many pixels
    as the model was trained on.
    """
    scale = native / math.sqrt(width * height)
    low = -(-SIZE_MIN // multiple) * multiple

    def fit(side: int) -> int:
        nearest = round(side * scale / multiple) * multiple
        return min(max(nearest, low), SIZE_MAX)

    return fit(width), fit(height)


def to_pixels(image: Image.Image, width: int, height: int) -> Pixels:
    """Return `image` filling `width` x `height`: scaled with Lanczos, the overhang cropped."""
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return Pixels(width, height, image.convert("RGB").tobytes())


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
