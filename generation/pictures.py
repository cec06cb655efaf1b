"""Image files from outside into pixels, and pixels into what people are shown."""

from __future__ import annotations

import io
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import GenerationError, InvalidSource
from .request import SIZE_MAX, SIZE_MIN, Pixels

log = logging.getLogger(__name__)

SOURCE_BYTES_MAX: Final = 25 * 2**20
SOURCE_PIXELS_MAX: Final = 40_000_000
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# A progressive JPEG has about ten. Each is another pass over all pixels, however few bytes it has.
_SCANS_MAX: Final = 100
_START_OF_SCAN: Final = b"\xff\xda"
_STRIP_PIXELS: Final = 2**20
_SHOWN_MIN: Final[int] = 256
_decoding = threading.Lock()


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
    with decoding(InvalidSource("That image is damaged; save it again and send it once more.")):
        image = _open(data)
        # Many phones append a preview or a depth map to a JPEG: an MPO of several still frames.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise InvalidSource("That image is animated; send a still picture.")
        return _upright_rgb(image)


@contextmanager
def decoding(failure: GenerationError) -> Iterator[None]:
    """Raise `failure` for whatever Pillow cannot read in this block.

    One block runs at a time: warnings are muted for the whole process, and pictures of 40
    million pixels take much memory.
    """
    with _decoding, warnings.catch_warnings():
        # Of what it can mend in a damaged file, and of sizes that are checked here anyway.
        warnings.simplefilter("ignore")
        try:
            yield
        except GenerationError:
            raise
        # Bytes made to break them get anything out of Pillow's parsers: struct.error,
        # IndexError, TypeError and others besides those that it documents.
        except Exception as error:
            raise failure from error


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidSource(
            "That file is not an image that I can read; send a PNG, JPEG or WebP picture."
        ) from error
    except Image.DecompressionBombError as error:
        raise InvalidSource(
            f"That image has too many pixels; send one of at most "
            f"{SOURCE_PIXELS_MAX // 1_000_000} million."
        ) from error
    if image.width * image.height > SOURCE_PIXELS_MAX:
        raise InvalidSource(
            f"That image has {image.width:,} x {image.height:,} pixels; send one of at most "
            f"{SOURCE_PIXELS_MAX // 1_000_000} million."
        )
    if image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > _SCANS_MAX:
        raise InvalidSource(
            "That JPEG is stored in far too many passes; save it again and send it once more."
        )
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Return `image`, which is used up, as a picture in RGB.

    In strips, since a picture of 40 million pixels is 160 MB in each of the modes on the way.
    """
    _turn_upright(image)
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_on_white(strip), (0, top))
    return rgb


def _turn_upright(image: Image.Image) -> None:
    """Turn `image` as its EXIF says, where that can be read."""
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    # As everywhere in Pillow's parsers; the pixels are there already, and sound.
    except Exception as error:
        log.debug("The EXIF of a picture cannot be read: %r", error)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bits(grey: Image.Image) -> Image.Image:
    """Return a 16-bit picture in 8 bits; Pillow's own conversion cuts off at 255 instead."""
    return grey.convert("I").point(lambda level: level / 257).convert("L")


def fitted_size(
    width: int, height: int, *, native: int, multiple: int, most: int = SIZE_MAX
) -> tuple[int, int]:
    """Return the size to work at for a picture of this shape on a model of size `native`.

    The shape is kept as nearly as multiples of `multiple` allow, with about as many pixels
    as the model was trained on; no side is longer than `most`.
    """
    scale = native / math.sqrt(width * height)
    low = math.ceil(SIZE_MIN / multiple) * multiple
    high = min(most, SIZE_MAX) // multiple * multiple

    def fit(side: int) -> int:
        nearest = round(side * scale / multiple) * multiple
        return min(max(nearest, low), high)

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
