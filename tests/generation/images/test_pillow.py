"""Sizes of pictures, and pixels as Pillow's images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from generation.images.pillow import enlarged, fitted_size, shown_factor, to_image, to_pixels
from generation.values.pixels import Pixels
from generation.values.request import SIZE_MAX, SIZE_MIN

from ..examples import gradient
from .test_files import BLUE, GREEN, RED, WHITE, four_colors, near


class TestFittedSize:
    @given(
        st.integers(1, 20_000),
        st.integers(1, 20_000),
        st.sampled_from([64, 256, 512, 768]),
        st.sampled_from([8, 16, 64]),
    )
    def test_it_is_a_size_that_can_be_asked_for(
        self, width: int, height: int, native: int, multiple: int
    ) -> None:
        fitted = fitted_size(width, height, native=native, multiple=multiple)
        for side in fitted:
            assert side % multiple == 0
            assert SIZE_MIN <= side <= SIZE_MAX

    @given(
        st.integers(1, 20_000),
        st.floats(0.3, 3.3),
        st.sampled_from([256, 512, 768]),
    )
    def test_it_keeps_the_shape_and_has_about_the_models_pixels(
        self, width: int, aspect: float, native: int
    ) -> None:
        height = max(1, round(width / aspect))
        # Of a picture of few pixels the shape is not what was drawn.
        if not 0.25 < width / height < 4:
            return
        fitted = fitted_size(width, height, native=native, multiple=8)
        ideal = [native * (width / height) ** power for power in (0.5, -0.5)]
        for side, wanted in zip(fitted, ideal, strict=True):
            assert abs(side - wanted) <= 4.001

    @pytest.mark.parametrize(
        ("size", "fitted"),
        [
            ((512, 512), (512, 512)),
            ((4_000, 3_000), (592, 440)),
            ((1_080, 1_920), (384, 680)),
            ((16, 16), (512, 512)),
            ((10_000, 1), (2_048, 32)),
            ((1, 10_000), (32, 2_048)),
        ],
    )
    def test_familiar_shapes(self, size: tuple[int, int], fitted: tuple[int, int]) -> None:
        assert fitted_size(*size, native=512, multiple=8) == fitted

    @given(st.integers(1, 5_000), st.integers(1, 5_000))
    def test_turning_a_picture_turns_its_size(self, width: int, height: int) -> None:
        one = fitted_size(width, height, native=512, multiple=8)
        other = fitted_size(height, width, native=512, multiple=8)
        assert one == other[::-1]


class TestPixels:
    def test_pixels_and_images_turn_into_each_other(self) -> None:
        pixels = gradient(48, 32)
        assert to_pixels(to_image(pixels), 48, 32) == pixels

    def test_a_picture_of_another_shape_is_cropped_in_the_middle(self) -> None:
        wide = Image.new("RGB", (96, 32), RED)
        wide.paste(GREEN, (32, 0, 64, 32))
        assert to_pixels(wide, 32, 32) == Pixels(32, 32, bytes(GREEN) * 32 * 32)

    def test_a_larger_picture_is_scaled(self) -> None:
        scaled = to_pixels(four_colors(), 8, 16)
        image = to_image(scaled)
        assert near(image.getpixel((0, 0)), RED)
        assert near(image.getpixel((7, 15)), WHITE)


class TestShownSize:
    @given(st.integers(SIZE_MIN, SIZE_MAX), st.integers(SIZE_MIN, SIZE_MAX))
    def test_small_pictures_are_shown_at_256_pixels_or_more_and_others_as_they_are(
        self, width: int, height: int
    ) -> None:
        factor = shown_factor(width, height)
        longest = max(width, height)
        assert factor * longest >= 256
        assert factor == 1 or (factor - 1) * longest < 256

    def test_every_pixel_is_repeated(self) -> None:
        small = Image.new("RGB", (2, 1), RED)
        small.putpixel((1, 0), BLUE)
        large = enlarged(small, 3)
        assert large.size == (6, 3)
        row = [large.getpixel((x, 1)) for x in range(6)]
        assert row == [RED] * 3 + [BLUE] * 3

    def test_at_factor_one_nothing_changes(self) -> None:
        small = to_image(gradient())
        assert enlarged(small, 1).tobytes() == small.tobytes()
