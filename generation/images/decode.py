"""From the bytes of an image file to upright pixels in sRGB; runs in the reading process."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops, ImageFile

from ..errors import InvalidSource
from .chunks import open_png
from .color import Convert, to_srgb
from .container import Container, DamagedFile, Format, format_of
from .jpeg import open_jpeg
from .limits import (
    EXIF_BYTES_MAX,
    HEIF_PIXELS_MAX,
    JPEG_PIXELS_MAX,
    REDUCED_PIXELS_MAX,
    SOURCE_PIXELS_MAX,
)
from .small_formats import RunLengthBitmap, open_bmp, open_gif, open_webp

log = logging.getLogger(__name__)

# A progressive JPEG has about ten. Each pass goes over all pixels, even for a few bytes.
_PASSES_MAX: Final = 100
# For a progressive JPEG that is cut off: two passes give an eighth of the sharpness.
_PASSES_MIN: Final = 3
_MISSING_MOST: Final = 0.5
_STRIP_PIXELS: Final = 2**20
# A larger number is wrong in the file, so people are not told the number.
_TELLING_PIXELS_MAX: Final = 178_956_970
_ORIENTATION: Final = 0x0112
_SIXTEEN_BITS: Final = 16
_PIXELS_MAX: Final[Mapping[Format, int]] = {
    "JPEG": JPEG_PIXELS_MAX,
    "HEIF": HEIF_PIXELS_MAX,
    "AVIF": HEIF_PIXELS_MAX,
}
# How a picture with an Exif orientation is turned upright (Exif 2.32, 4.6.4).
_TURNS: Final[Mapping[object, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NOT_AN_IMAGE: Final = "That file is not an image that I can read; send a PNG, JPEG or WebP picture."
DAMAGED: Final = "That image is damaged; save it again and send it once more."
TOO_MUCH_MEMORY: Final = "That image takes too much memory to read; send a smaller one."


def open_file(data: bytes, *, texts: frozenset[str] = frozenset()) -> Container:
    """Return the still picture in a file, not decoded yet, with the `texts` of a PNG.

    Raises:
        InvalidSource: the file is no image, is damaged, or has too many pixels.
    """
    format_ = format_of(data)
    if format_ is None:
        raise InvalidSource(NOT_AN_IMAGE)
    openers: dict[Format, Callable[[bytes], Container]] = {
        "PNG": functools.partial(open_png, texts=texts),
        "JPEG": open_jpeg,
        "GIF": open_gif,
        "BMP": open_bmp,
        "WEBP": open_webp,
    }
    try:
        container = openers.get(format_, functools.partial(Container, format_))(data)
    except RunLengthBitmap as error:
        raise InvalidSource(
            "That bitmap is compressed; save it as PNG or JPEG and send it once more."
        ) from error
    except DamagedFile as error:
        raise InvalidSource(DAMAGED) from error
    _check(container)
    return container


def _check(container: Container) -> None:
    if container.size is not None:
        _check_size(container.format, *container.size)
    if container.passes > _PASSES_MAX:
        raise InvalidSource(
            "That JPEG is stored in far too many passes; save it again and send it once more."
        )


def _check_size(format_: Format, width: int, height: int) -> None:
    most = _PIXELS_MAX.get(format_, SOURCE_PIXELS_MAX)
    if width * height <= most:
        return
    what = f"{width:,} x {height:,}" if width * height <= _TELLING_PIXELS_MAX else "too many"
    raise InvalidSource(
        f"That image has {what} pixels; send one of at most {most // 1_000_000} million."
    )


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture upright, in RGB (sRGB), transparency on white; and the Exif data beside it."""

    image: Image.Image
    exif: Image.Exif | None


def decode(container: Container) -> Decoded:
    """Return the picture in a file.

    A picture of more than 40 million pixels is reduced to a half, a quarter or an eighth of its
    size.

    Raises:
        InvalidSource: the picture is damaged or too large, or more than half of it is missing.
    """
    try:
        image = _load(container)
        exif = _exif(container, image)
        turn = _turn(container, exif)
        if image.width * image.height > SOURCE_PIXELS_MAX:
            image = image.reduce(2)
        upright = image if turn is None else image.transpose(turn)
        return Decoded(_rgb(container, upright), exif)
    except InvalidSource:
        raise
    except MemoryError as error:
        raise InvalidSource(TOO_MUCH_MEMORY) from error
    # Malicious bytes cause more errors than Pillow documents: struct.error, IndexError, TypeError.
    except Exception as error:
        raise InvalidSource(DAMAGED) from error


def _load(container: Container) -> Image.Image:
    image = _open(container, container.data)
    try:
        image.load()
    except OSError:
        if container.format not in ("JPEG", "PNG", "GIF", "BMP"):
            raise
        return _load_truncated(container, image)
    return image


def _open(container: Container, data: bytes) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(data), formats=[container.format])
    width, height = image.size
    _check_size(container.format, width, height)
    if width * height > SOURCE_PIXELS_MAX and container.format == "JPEG":
        factor = next(k for k in (2, 4, 8) if width * height <= k * k * REDUCED_PIXELS_MAX)
        image.draft(None, (width // factor, height // factor))
        _check_size("PNG", *image.size)
    return image


def _load_truncated(container: Container, begun: ImageFile.ImageFile) -> Image.Image:
    """Return a picture whose end is missing, as viewers show it.

    `begun` is the part of the picture that a strict decoder has read.

    Raises:
        InvalidSource: less than half of the picture is there.
    """
    if container.passes > 1:
        enough = container.passes >= _PASSES_MIN
    else:
        # Missing rows stay at zero, which is also the black of a night.
        box = begun.im.getbbox(False)
        enough = box is not None and 2 * (box[3] - box[1]) > begun.height
        enough = enough or _missing(container, begun) <= _MISSING_MOST
    if not enough:
        raise InvalidSource(DAMAGED)
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image = _open(container, container.data)
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return image


def _missing(container: Container, begun: ImageFile.ImageFile) -> float:
    """Return how much of a picture did not come, from 0 to 1: what is left as it was before."""
    again = _open(container, container.data)
    again.im = Image.new(again.mode, again.size, (255,) * len(again.getbands())).im
    with contextlib.suppress(OSError):
        again.load()
    zero, full = _first_band(begun), _first_band(again)
    left = ImageChops.difference(zero, full).histogram()[255]
    return left / (zero.width * zero.height)


def _first_band(image: ImageFile.ImageFile) -> Image.Image:
    """Return the first band of as much of a picture as came, in 8 bits."""
    # Else it would go on reading the file.
    image.tile = []
    if image.mode == "P":
        return Image.frombytes("L", image.size, image.tobytes())
    if image.mode.startswith("I;16"):
        return Image.frombytes("LA", image.size, image.tobytes()).getchannel(0)
    return image.convert("L") if image.mode == "1" else image.getchannel(0)


def _exif(container: Container, image: Image.Image) -> Image.Exif | None:
    """Return the Exif data of a picture, or None if there is none or it cannot be read."""
    data = container.exif or image.info.get("exif")
    if not isinstance(data, bytes) or len(data) > EXIF_BYTES_MAX:
        return None
    exif = Image.Exif()
    try:
        exif.load(data)
    # Pillow's parsers raise many kinds of errors. The pixels are sound without Exif data.
    except Exception as error:
        log.debug("The Exif data of a picture cannot be read: %r", error)
        return None
    return exif


def _turn(container: Container, exif: Image.Exif | None) -> Image.Transpose | None:
    # The decoder of HEIF turns the picture itself, by other properties of the file.
    if container.format == "HEIF" or exif is None:
        return None
    try:
        return _TURNS.get(exif.get(_ORIENTATION))
    except Exception as error:
        log.debug("The orientation of a picture cannot be read: %r", error)
        return None


def _rgb(container: Container, image: Image.Image) -> Image.Image:
    """Return `image` as a picture in RGB; `image` may be changed.

    The conversion works in strips: 40 million pixels take 160 MB in each intermediate mode.
    """
    _repair_transparency(container, image)
    profile = container.profile or image.info.get("icc_profile")
    plain = image.mode == "RGB" and not image.has_transparency_data
    if plain and not profile:
        return image
    convert = functools.cache(functools.partial(to_srgb, profile))
    rgb = image if plain else Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_on_white(strip, convert), (0, top))
    return rgb


def _repair_transparency(container: Container, image: Image.Image) -> None:
    if (
        container.format == "BMP"
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema() == (0, 0)
    ):
        # Programs on Windows leave this byte at zero when they copy to the clipboard.
        image.putalpha(255)
    transparent = image.info.get("transparency")
    if container.format == "PNG" and container.data[24] == _SIXTEEN_BITS:
        # The transparent color has 16 bits, but the pixels were converted to 8.
        if isinstance(transparent, tuple):
            image.info["transparency"] = tuple(level >> 8 for level in transparent)
        elif isinstance(transparent, int):
            image.info["transparency"] = transparent // 257


def _on_white(strip: Image.Image, to_srgb: Callable[[str], Convert | None]) -> Image.Image:
    if strip.mode.startswith("I;16"):
        strip = _eight_bits(strip)
    alpha = None
    if strip.has_transparency_data:
        strip = strip.convert("RGBA")
        alpha = strip.getchannel("A")
    if strip.mode not in ("L", "RGB", "CMYK"):
        strip = strip.convert("RGB")
    convert = to_srgb(strip.mode)
    color = convert(strip) if convert else strip.convert("RGB")
    if alpha is not None:
        color.putalpha(alpha)
        white = Image.new("RGBA", color.size, "white")
        color = Image.alpha_composite(white, color).convert("RGB")
    return color


def _eight_bits(grey: Image.Image) -> Image.Image:
    """Return a 16-bit picture in 8 bits; Pillow's own conversion clips at 255 instead."""
    levels = grey.convert("I").point(lambda level: level / 257).convert("L")
    if (transparent := grey.info.get("transparency")) is not None:
        levels.info["transparency"] = transparent
    return levels
