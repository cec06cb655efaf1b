"""From the colors that a file describes by an ICC profile to those of a screen (sRGB)."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Final

from PIL import Image, ImageCms

log = logging.getLogger(__name__)

Convert = Callable[[Image.Image], Image.Image]
# The color space that a profile says it is for, and the mode of the pixels it fits.
_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(profile: bytes | None, mode: str) -> Convert | None:
    """Return what brings pictures of `mode` to sRGB by a profile, or None if nothing is to be done.

    A profile that is damaged, or of another kind of colors, is no reason to refuse a picture that
    every viewer shows without it.
    """
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        name = source.profile.profile_description or ""
        if _MODES.get(space) != mode or (mode == "RGB" and "sRGB" in name):
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
    # Bytes made to break it get more than its own errors out of a parser.
    except Exception as error:
        log.debug("A color profile cannot be used: %r", error)
        return None
    return transform.apply
