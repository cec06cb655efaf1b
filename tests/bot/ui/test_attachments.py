from __future__ import annotations

import dataclasses
import io

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bot.ui import attachments
from generation.images.png import write_png
from generation.values.pixels import Pixels
from generation.values.recipe import Recipe
from generation.values.request import PROMPT_LENGTH

from .test_messages import JOB, RECIPE, asking


def noise(side: int) -> tuple[Recipe, bytes]:
    image = Image.effect_noise((side, side), 120).convert("RGB")
    recipe = dataclasses.replace(RECIPE, width=side, height=side)
    return recipe, write_png(Pixels(side, side, image.tobytes()), recipe)


def test_pictures_that_are_too_large_together_are_sent_as_jpegs_that_fit() -> None:
    pictures = [noise(512)] * 4
    whole = attachments.attachments(JOB, pictures, limit=10 * 2**20)
    assert [file.filename for file in whole] == [f"imagine-42-{n}.png" for n in (1, 2, 3, 4)]
    assert [file.data for file in whole] == [png for _, png in pictures]
    limit = sum(len(file.data) for file in whole) // 3
    small = attachments.attachments(JOB, pictures, limit=limit)
    assert [file.filename for file in small] == [f"imagine-42-{n}.jpg" for n in (1, 2, 3, 4)]
    assert sum(len(file.data) for file in small) <= limit
    with Image.open(io.BytesIO(small[0].data)) as image:
        assert image.size == (512, 512)


def test_only_small_pictures_are_enlarged_and_by_a_whole_factor() -> None:
    for side, shown in ((64, 256), (96, 288), (128, 256), (200, 400), (256, 256), (512, 512)):
        (file,) = attachments.attachments(JOB, [noise(side)], limit=10 * 2**20)
        with Image.open(io.BytesIO(file.data)) as image:
            assert image.size == (shown, shown)


sides = st.integers(1, 256)


@given(sides, sides)
def test_a_preview_is_enlarged_by_a_whole_factor_to_a_size_that_can_be_seen(
    width: int, height: int
) -> None:
    job = asking("o" * PROMPT_LENGTH)
    file = attachments.preview(job, 40, Pixels(width, height, b"\x80" * 3 * width * height))
    with Image.open(io.BytesIO(file.data)) as image:
        factor = image.width // width
        assert image.size == (factor * width, factor * height)
        assert 128 < max(image.size) <= 256
        assert image.getpixel((0, 0)) == (128, 128, 128)
    assert len(file.description) == 1_024
    assert len(file.data) < 4_096


def test_a_preview_is_enlarged_smoothly() -> None:
    halves = Pixels(2, 1, bytes((0, 0, 0, 255, 255, 255)))
    with Image.open(io.BytesIO(attachments.preview(JOB, 40, halves).data)) as image:
        row = [image.convert("L").getpixel((x, 64)) for x in range(0, 256, 16)]
    assert row == sorted(row)
    assert len(set(row)) > 6
