"""The texts in a picture that this bot or AUTOMATIC1111's programs made."""

from __future__ import annotations

import logging
from typing import Final

from PIL import Image

from .chunks import PARAMETERS_CHUNK, RECIPE_CHUNK
from .container import Container
from .infotext import Prompts, parse_infotext
from .limits import TEXT_BYTES_MAX

log = logging.getLogger(__name__)

TEXTS: Final = frozenset({RECIPE_CHUNK, PARAMETERS_CHUNK})
_EXIF_IFD: Final = 0x8769
_USER_COMMENT: Final = 0x9286
# The first eight bytes of a comment name its encoding (Exif 2.32, 4.6.5).
_ENCODINGS: Final = {b"ASCII\0\0\0": "latin-1", b"UNICODE\0": "utf-16"}


def recipe_of(container: Container) -> str | None:
    """Return the JSON of our own recipe in a picture, unchecked, or None."""
    return container.texts.get(RECIPE_CHUNK) or None


def prompts_of(container: Container, exif: Image.Exif | None) -> Prompts | None:
    """Return the prompts that AUTOMATIC1111's programs wrote into a picture, or None."""
    infotext = container.texts.get(PARAMETERS_CHUNK) or _comment(exif)
    return parse_infotext(infotext) if infotext else None


def _comment(exif: Image.Exif | None) -> str | None:
    """Return the comment in the Exif data: AUTOMATIC1111 uses it in JPEG and WebP files."""
    if exif is None:
        return None
    try:
        comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    # Pillow's parsers raise many kinds of errors.
    except Exception as error:
        log.debug("The comment in a picture cannot be read: %r", error)
        return None
    if not isinstance(comment, bytes) or len(comment) > TEXT_BYTES_MAX:
        return None
    encoding = _ENCODINGS.get(comment[:8])
    if encoding is None:
        return None
    return _decoded(comment[8:], encoding)


def _decoded(text: bytes, encoding: str) -> str:
    if encoding == "utf-16" and not text.startswith((b"\xff\xfe", b"\xfe\xff")):
        # Without a byte order mark the order is that of the Exif data, or big-endian as piexif
        # writes. The place of the zero bytes of Latin letters tells which.
        encoding = "utf-16-be" if text[0::2].count(0) >= text[1::2].count(0) else "utf-16-le"
    return text.decode(encoding, "replace")
