from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from generation.errors import InvalidSource
from generation.images.decode import decode, open_file
from generation.images.files import read_source

from .. import png

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
NOT_AN_IMAGE = "That file is not an image that I can read; send a PNG, JPEG or WebP picture."
DAMAGED = "That image is damaged; save it again and send it once more."
STILL_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def file(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, format_, **options)
    return written.getvalue()


def four_colors() -> Image.Image:
    """Red and green above, blue and white below; 32 pixels wide and 64 high."""
    image = Image.new("RGB", (32, 64), RED)
    image.paste(GREEN, (16, 0, 32, 32))
    image.paste(BLUE, (0, 32, 16, 64))
    image.paste(WHITE, (16, 32, 32, 64))
    return image


def near(color: Any, expected: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= 12 for a, b in zip(color, expected, strict=True))


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidSource) as caught:
        read_source(data)
    sentence = str(caught.value)
    assert caught.value.field == "image"
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


class TestWhatIsRead:
    @pytest.mark.parametrize("format_", STILL_FORMATS)
    def test_every_common_format(self, format_: str) -> None:
        image = read_source(file(four_colors(), format_))
        assert (image.mode, image.size) == ("RGB", (32, 64))
        corners = [(3, 3), (28, 3), (3, 60), (28, 60)]
        for corner, color in zip(corners, (RED, GREEN, BLUE, WHITE), strict=True):
            assert near(image.getpixel(corner), color)

    @pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_picture_that_a_camera_held_askew_is_upright(
        self, format_: str, orientation: int
    ) -> None:
        # How the upright picture has to be turned to be stored under each EXIF orientation.
        stored_as = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        stored = four_colors()
        if orientation in stored_as:
            stored = stored.transpose(stored_as[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = read_source(file(stored, format_, exif=exif))
        assert image.size == (32, 64)
        assert near(image.getpixel((3, 3)), RED)
        assert near(image.getpixel((28, 3)), GREEN)
        assert near(image.getpixel((3, 60)), BLUE)

    @pytest.mark.parametrize("format_", ["PNG", "WEBP"])
    def test_transparency_is_shown_on_white(self, format_: str) -> None:
        image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
        image.paste((255, 0, 0, 128), (0, 0, 8, 16))
        shown = read_source(
            file(image, format_, **({"lossless": True} if format_ == "WEBP" else {}))
        )
        assert shown.getpixel((12, 8)) == WHITE
        assert near(shown.getpixel((4, 8)), (255, 127, 127))

    def test_a_transparent_color_of_a_palette_is_shown_on_white(self) -> None:
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
        image.putpixel((5, 5), 2)
        shown = read_source(file(image, transparency=1))
        assert shown.getpixel((0, 0)) == WHITE
        assert shown.getpixel((5, 5)) == BLUE
        assert read_source(file(image)).getpixel((0, 0)) == RED

    def test_a_transparent_grey_is_shown_on_white(self) -> None:
        shown = read_source(file(Image.new("LA", (8, 8), (0, 128))))
        assert near(shown.getpixel((0, 0)), (127, 127, 127))

    @pytest.mark.parametrize(
        ("colors", "channels", "expected"), [(0, 1, 128), (2, 3, 128), (4, 2, 191), (6, 4, 191)]
    )
    def test_sixteen_bits_are_brought_to_eight(
        self, colors: int, channels: int, expected: int
    ) -> None:
        rows = (b"\0" + struct.pack(">H", 0x8000) * channels * 8) * 8
        shown = read_source(png.picture(8, 8, rows, depth=16, colors=colors))
        assert near(shown.getpixel((3, 3)), (expected,) * 3)

    def test_sixteen_bit_grey_keeps_its_shades(self) -> None:
        rows = b"".join(
            b"\0" + struct.pack(">2H", level, 65_535) for level in range(0, 65_536, 257)
        )
        shown = read_source(png.picture(2, 256, rows, depth=16, colors=0))
        assert [shown.getpixel((0, y)) for y in range(256)] == [(y, y, y) for y in range(256)]

    def test_the_colors_of_print_are_brought_to_those_of_a_screen(self) -> None:
        shown = read_source(file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
        assert near(shown.getpixel((8, 8)), RED)

    @pytest.mark.parametrize("mode", ["1", "L"])
    def test_black_and_white(self, mode: str) -> None:
        assert read_source(file(Image.new(mode, (8, 8), 255))).getpixel((0, 0)) == WHITE

    def test_a_phones_jpeg_with_a_second_picture_is_a_still(self) -> None:
        preview = Image.new("RGB", (8, 8), BLUE)
        data = file(four_colors(), "MPO", save_all=True, append_images=[preview])
        assert data.startswith(b"\xff\xd8")
        assert near(read_source(data).getpixel((3, 3)), RED)

    def test_a_jpeg_that_shows_itself_in_ever_finer_passes(self) -> None:
        image = read_source(file(four_colors(), "JPEG", progressive=True))
        assert near(image.getpixel((3, 3)), RED)

    @pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
    @pytest.mark.parametrize("exif", [b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\0\0", b"no exif at all"])
    def test_a_sound_picture_whose_exif_is_not(self, format_: str, exif: bytes) -> None:
        image = read_source(file(four_colors(), format_, exif=b"Exif\0\0" + exif))
        assert near(image.getpixel((3, 3)), RED)

    def test_a_still_gif_and_webp_are_no_animation(self) -> None:
        for format_ in ("GIF", "WEBP", "PNG"):
            read_source(file(four_colors(), format_, save_all=True))

    def test_what_the_bytes_are_counts_and_not_what_somebody_calls_them(self) -> None:
        # A name is not even asked for; these are a JPEG's bytes after a PNG's name.
        assert read_source(file(four_colors(), "JPEG")).size == (32, 64)

    def test_a_large_photograph(self) -> None:
        assert read_source(png.white(7_300, 5_400)).size == (7_300, 5_400)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x00" * 100,
            b"<!DOCTYPE html><html><body>404</body></html>",
            b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            b"PK\x03\x04",
            b"GIF89a",
            b"\xff\xd8\xff",
            b"BM",
            b"RIFF\x00\x00\x00\x00WEBP",
            png.SIGNATURE,
            "just a text about a rabbit 🐇".encode(),
        ],
        ids=lambda data: repr(data[:12]),
    )
    def test_what_is_no_picture(self, data: bytes) -> None:
        assert refusal(data) in (NOT_AN_IMAGE, DAMAGED)

    @pytest.mark.parametrize("format_", ["TIFF", "ICO", "PPM", "TGA", "PCX"])
    def test_formats_that_nobody_uploads(self, format_: str) -> None:
        assert refusal(file(four_colors(), format_)) == NOT_AN_IMAGE

    @pytest.mark.parametrize(
        ("size", "told"),
        [
            ((20_000, 20_000), "That image has too many pixels; send one of at most 40 million."),
            (
                (7_000, 7_000),
                "That image has 7,000 x 7,000 pixels; send one of at most 40 million.",
            ),
            # Pillow would warn of this one and go on.
            (
                (10_000, 10_000),
                "That image has 10,000 x 10,000 pixels; send one of at most 40 million.",
            ),
        ],
    )
    def test_more_pixels_than_anybody_needs(self, size: tuple[int, int], told: str) -> None:
        data = png.white(*size)
        assert len(data) < 100_000
        assert refusal(data) == told

    def test_more_passes_than_any_jpeg_has(self) -> None:
        """A pass of a few bytes is still one over all pixels: 260 kB took twelve seconds."""
        data = file(four_colors(), "JPEG", progressive=True)
        last = data.rindex(b"\xff\xda")
        end = len(data) - 2
        assert read_source(data[:last] + 50 * data[last:end] + data[end:]).size == (32, 64)
        assert refusal(data[:last] + 150 * data[last:end] + data[end:]) == (
            "That JPEG is stored in far too many passes; save it again and send it once more."
        )

    def test_a_file_that_only_says_that_it_is_huge(self) -> None:
        assert "too many pixels" in refusal(png.picture(2**31 - 1, 2**31 - 1, b""))

    def test_more_bytes_than_anybody_needs(self) -> None:
        data = file(four_colors()) + bytes(25 * 2**20)
        assert refusal(data) == "That file has 25 MiB; send an image of at most 25 MiB."
        assert refusal(bytes(30 * 2**20)).startswith("That file has 30 MiB;")

    @pytest.mark.parametrize("format_", STILL_FORMATS)
    def test_a_file_of_which_most_is_missing(self, format_: str) -> None:
        noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(3 * 64 * 64))
        data = file(noise, format_)
        assert refusal(data[: len(data) // 8]) in (DAMAGED, NOT_AN_IMAGE)

    def test_a_file_whose_pixels_are_damaged(self) -> None:
        header, (kind, data), *rest = png.split(file(four_colors()))
        assert kind == b"IDAT"
        assert (
            refusal(png.join([header, (kind, data[:9] + bytes(9) + data[18:]), *rest])) == DAMAGED
        )


_PEAK = """
import re, sys
from pathlib import Path
from generation.images.files import read_source

def peak():
    return int(re.search(r"VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1])

data = sys.stdin.buffer.read()
before = peak()
assert read_source(data).size == (3_000, 4_000)
print(1024 * (peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what a process has used")
def test_a_large_picture_takes_the_memory_of_its_pixels_only() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file(Image.new("RGBA", (4_000, 3_000), (1, 2, 3, 128)), exif=exif)
    command = [sys.executable, "-c", _PEAK]
    used = int(subprocess.run(command, input=data, capture_output=True, check=True).stdout)
    # In each mode a pixel has four bytes.
    assert 0.5 < used / (4 * 12_000_000) < 1.5


def originals() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a rabbit"
    still = four_colors()
    second = {"save_all": True, "append_images": [Image.new("RGB", (32, 64), BLUE)]}
    return [
        *(file(still, format_, exif=exif) for format_ in ("PNG", "JPEG", "WEBP")),
        file(still, "GIF"),
        file(still.convert("1"), "BMP"),
        file(still.convert("P")),
        file(still, "GIF", **second),
        file(still, "PNG", **second),
        file(still, "MPO", **second),
    ]


ORIGINALS = originals()


def mutated(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    # Most of what a parser can stumble over is at the beginning.
    reach = len(changed) if dice.random() < 0.3 else min(len(changed), 200)
    for _ in range(dice.randint(1, 5)):
        changed[dice.randrange(reach)] = dice.randrange(256)
    if dice.random() < 0.2:
        del changed[dice.randrange(len(changed)) :]
    return bytes(changed)


@settings(max_examples=400)
@given(st.randoms(use_true_random=False))
def test_whatever_the_bytes_are_there_is_a_picture_or_a_sentence(dice: random.Random) -> None:
    original = dice.choice(ORIGINALS)
    if original.startswith(png.SIGNATURE) and dice.random() < 0.7:
        data = png.mutated(original, dice)
    else:
        data = mutated(original, dice)
    # As the reading process does it; one for each of so many would take minutes.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = decode(open_file(data)).image
    except InvalidSource as error:
        told = str(error)
        assert told in (DAMAGED, NOT_AN_IMAGE) or "million" in told or "passes" in told
    else:
        assert image.mode == "RGB"
