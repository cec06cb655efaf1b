"""From the colors of an ICC profile in a file to the colors of a screen (sRGB)."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Final

from PIL import Image, ImageCms

log = logging.getLogger(__name__)

Convert = Callable[[Image.Image], Image.Image]
# The color space of a profile, and the mode of the pixels that the profile fits.
_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(profile: bytes | None, mode: str) -> Convert | None:
    """Return a function that converts pictures of `mode` to sRGB, or None if none is needed.

    A profile that is damaged or for other colors is ignored: viewers show such a picture too.
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
    # Malicious bytes cause more errors than the parser documents.
    except Exception as error:
        log.debug("A color profile cannot be used: %r", error)
        return None
    return transform.apply
