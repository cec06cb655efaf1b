"""Damaged image files for the reader of uploads, and damaged PNG files for replay."""

from __future__ import annotations

import io
import random
import resource
from collections.abc import Callable, Sequence

import pillow_heif
from PIL import Image

from generation.errors import GenerationError
from generation.images.files import read_source
from generation.images.png import read_png_outside, write_png

from ..generation import png
from ..generation.examples import gradient
from ..generation.images.test_png import a_recipe

# Uploads are read in processes of their own; the CPU time of one attempt.
_CPU_SECONDS = 12.0


def _uploads() -> Sequence[bytes]:
    pillow_heif.register_heif_opener()
    noise = Image.effect_noise((96, 64), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a rabbit"
    made = []
    for format_ in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "HEIF", "AVIF"):
        file = io.BytesIO()
        options = {"exif": exif} if format_ in ("PNG", "JPEG", "WEBP") else {}
        noise.save(file, format_, **options)
        made.append(file.getvalue())
    return made


class Pictures:
    """Changes files at random and reads them."""

    def __init__(self, originals: Sequence[bytes], read: Callable[[bytes], object]) -> None:
        self._originals = originals
        self._read = read

    @classmethod
    def uploads(cls) -> Pictures:
        """Return the target for uploads, of every format."""
        return cls(_uploads(), read_source)

    @classmethod
    def recipes(cls) -> Pictures:
        """Return the target for PNG files with a recipe, as `replay` reads them."""
        return cls([write_png(gradient(), a_recipe())], read_png_outside)

    def attempt(self, dice: random.Random) -> bool:
        """Read a damaged file, and return whether it was refused in one sentence."""
        data = _damaged(dice.choice(self._originals), dice)
        before, told = _cpu_seconds(), ""
        try:
            self._read(data)
        except GenerationError as error:
            told = str(error)
        assert _cpu_seconds() - before < _CPU_SECONDS
        assert len(told.splitlines()) <= 1
        # This sentence means that the process itself has failed.
        assert "could not be read" not in told
        return bool(told)

    def close(self) -> None:
        """Do nothing: all files are in memory."""


def _damaged(data: bytes, dice: random.Random) -> bytes:
    if data.startswith(png.SIGNATURE) and dice.random() < 0.7:
        return png.mutated(data, dice)
    changed = bytearray(data)
    reach = len(changed) if dice.random() < 0.5 else min(len(changed), 200)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(reach)] = dice.randrange(256)
    if dice.random() < 0.2:
        del changed[dice.randrange(len(changed)) :]
    if dice.random() < 0.2:
        start = dice.randrange(len(changed) or 1)
        changed[start:start] = changed[start : start + dice.randrange(5_000)] * dice.randint(1, 50)
    return bytes(changed)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
