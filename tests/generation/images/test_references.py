"""References: pictures as a model for editing reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from PIL import Image

from generation.errors import InvalidSource
from generation.images.pillow import reference_pixels, to_image

from ..examples import gradient


def picture(width: int, height: int) -> Image.Image:
    return to_image(gradient(96, 80)).resize((width, height), Image.Resampling.BICUBIC)


def of_the_pipeline(image: Image.Image) -> Any:
    """Return what Flux2KleinPipeline makes of a picture, as values from 0 to 255."""
    processor = Flux2ImageProcessor(vae_scale_factor=16)
    processor.check_image_input(image)
    if image.width * image.height > 1024 * 1024:
        image = processor._resize_to_target_area(image, 1024 * 1024)
    width, height = (side // 16 * 16 for side in image.size)
    made = processor.preprocess(image, height=height, width=width, resize_mode="crop")
    return np.rint((made[0].permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize(
    "size", [(64, 64), (79, 65), (640, 480), (512, 64), (1_600, 1_200), (301, 2_400)], ids=str
)
def test_a_reference_is_what_the_pipeline_reads(size: tuple[int, int]) -> None:
    image = picture(*size)
    np.testing.assert_array_equal(to_image(reference_pixels(image, 16)), of_the_pipeline(image))


def test_a_reference_is_read_again_as_it_is() -> None:
    """Otherwise a replay from the stored picture would differ."""
    once = reference_pixels(picture(1_601, 1_203), 16)
    assert reference_pixels(to_image(once), 16) == once


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((63, 200), "That picture is 63x200; a reference needs at least 64 pixels on each side."),
        (
            (64, 513),
            "That picture is 64x513; crop it, since a reference may be at most 8 times as long as "
            "wide.",
        ),
    ],
)
def test_a_picture_that_the_pipeline_refuses_is_refused(
    size: tuple[int, int], sentence: str
) -> None:
    image = picture(*size)
    with pytest.raises(InvalidSource) as caught:
        reference_pixels(image, 16)
    assert str(caught.value) == sentence
    with pytest.raises(ValueError, match="too"):
        of_the_pipeline(image)
