"""What the tests of the engine share: how an image is begun, and how pictures are compared."""

from __future__ import annotations

from generation.engine.denoising import Denoising
from generation.engine.engine import Engine
from generation.errors import GenerationError
from generation.images.pillow import to_image, to_pixels
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest, SchedulerName

BOTH: tuple[SchedulerName, ...] = ("lms", "ddim")
LONG = "a rabbit face, " * 30


def scaled(picture: Pixels, width: int, height: int) -> Pixels:
    return to_pixels(to_image(picture), width, height)


def begin(engine: Engine, request: GenerationRequest) -> list[Denoising]:
    [images] = engine.begin([request])
    assert not isinstance(images, GenerationError)
    return images


def found(picture: GeneratedImage | None) -> GeneratedImage:
    assert picture is not None
    return picture
