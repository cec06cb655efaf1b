"""Pictures as files for Discord."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import discord
from PIL import Image

from generation.images.pillow import shown_factor, to_image
from generation.images.png import read_origin, read_png, write_png
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from storage.records import Job

from .markup import plain
from .messages import ALT_LENGTH, alt_text, cut

_JPEG_QUALITIES: Final = (95, 85, 70, 50)
_PREVIEW_NAME: Final = "preview-"
_PREVIEW_SIDE: Final = 256
_PREVIEW_QUALITY: Final = 80


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file to send. Each attempt needs a new `discord.File`, since sending uses the file up."""

    filename: str
    data: bytes
    description: str

    def file(self) -> discord.File:
        """Return a fresh file object of this attachment."""
        return discord.File(io.BytesIO(self.data), self.filename, description=self.description)


def preview(job: Job, percent: int, pixels: Pixels) -> Attachment:
    """Return the file with a preview of an unfinished job's picture.

    A preview has one pixel for several of the picture's. It is enlarged smoothly by the largest
    whole factor that keeps its longer side within 256 pixels. The longer side is then more than 128
    pixels, and no longer than that of a finished picture as shown.
    """
    factor = max(1, _PREVIEW_SIDE // max(pixels.width, pixels.height))
    size = (pixels.width * factor, pixels.height * factor)
    image = to_image(pixels).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_PREVIEW_QUALITY)
    prompt = " ".join(plain(job.request.prompt).split())
    text = cut(f"A blurred preview at {percent} %: {prompt}", ALT_LENGTH)
    return Attachment(f"{_PREVIEW_NAME}{job.id}.jpg", file.getvalue(), text)


def attachments(
    job: Job, pictures: Sequence[tuple[Recipe, bytes]], *, limit: int
) -> list[Attachment]:
    """Return the files of a job as shown: small ones enlarged, at most `limit` bytes in all.

    `pictures` are the recipes and the stored PNG files. A PNG that needs no enlarging is sent as it
    is. If the PNGs exceed `limit`, all become JPEGs of the highest quality that fits.
    """
    texts = [
        alt_text(job, recipe, number, len(pictures))
        for number, (recipe, _) in enumerate(pictures, start=1)
    ]
    pngs = [_as_shown(recipe, png) for recipe, png in pictures]
    if sum(map(len, pngs)) <= limit:
        return [
            Attachment(f"imagine-{job.id}-{number}.png", png, text)
            for number, (png, text) in enumerate(zip(pngs, texts, strict=True), start=1)
        ]
    for quality in _JPEG_QUALITIES:
        jpegs = [_jpeg(png, quality) for png in pngs]
        if sum(map(len, jpegs)) <= limit:
            break
    return [
        Attachment(f"imagine-{job.id}-{number}.jpg", jpeg, text)
        for number, (jpeg, text) in enumerate(zip(jpegs, texts, strict=True), start=1)
    ]


def bytes_to_show(job: Job) -> int:
    """Return how many bytes the pictures of a job take in memory at most, as stored and as shown.

    A PNG of a photograph is somewhat smaller than its pixels.
    """
    request = job.request
    pixels = 3 * request.width * request.height
    return request.count * pixels * (1 + shown_factor(request.width, request.height) ** 2)


def _as_shown(recipe: Recipe, png: bytes) -> bytes:
    factor = shown_factor(recipe.width, recipe.height)
    if factor == 1:
        return png
    return write_png(read_png(png)[0], recipe, factor=factor, origin=read_origin(png))


def _jpeg(png: bytes, quality: int) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def is_finished(filenames: Iterable[str]) -> bool:
    """Return whether a message with these files has its pictures, and not only a preview."""
    return any(not name.startswith(_PREVIEW_NAME) for name in filenames)
