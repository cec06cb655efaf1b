"""Pictures as phones and programs write them, and those that were made to do harm."""

from __future__ import annotations

import io
import itertools
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pillow_heif
import psutil
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from generation.errors import InvalidSource
from generation.images import decode as decode_module
from generation.images import files
from generation.images.decode import decode, open_file
from generation.images.files import Fit, SourceReading, read_source

from .. import png
from ..examples import a_recipe

ORANGE = (255, 165, 0)
STILL = Image.new("RGB", (64, 48), ORANGE)


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    if checksum is None:
        checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


PNG, JPEG = saved(STILL, "PNG"), saved(STILL, "JPEG")
# Behind the signature and the header.
_BEHIND = 33


def with_chunk(added: bytes) -> bytes:
    return PNG[:_BEHIND] + added + PNG[_BEHIND:]


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif.register_heif_opener()
    return saved(image, "HEIF", quality=-1, **options)


def bitmap(alpha: int) -> bytes:
    blue, green, red = ORANGE[::-1]
    pixels = bytes((blue, green, red, alpha)) * (64 * 48)
    info = struct.pack("<IiiHHIIiiII", 108, 64, 48, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = (info + masks).ljust(108, b"\0")
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + pixels


def animated(format_: str) -> bytes:
    others = [Image.new("RGB", STILL.size, "blue")]
    return saved(STILL, format_, save_all=True, append_images=others)


@pytest.mark.parametrize(
    "make",
    [
        # Two bytes of a video may be those that begin a scan.
        lambda: JPEG + b"\0\0\0\x18ftypmp42" + random.Random(1).randbytes(9 * 2**20),
        lambda: JPEG + 1_000 * b"\xff\xda",
        lambda: JPEG[:-2],
        lambda: with_chunk(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"a" * 2_000_000))),
        lambda: with_chunk(chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000)))),
        lambda: with_chunk(chunk(b"tEXt", b"Comment\0hello", checksum=1)),
        lambda: with_chunk(chunk(b"gAMA", struct.pack(">I", 45_455), checksum=1)),
        lambda: bitmap(255),
        lambda: bitmap(0),
        lambda: heic(STILL),
        lambda: saved(STILL, "AVIF", quality=100),
        lambda: animated("GIF"),
        lambda: animated("PNG"),
        lambda: animated("WEBP"),
        lambda: animated("AVIF"),
    ],
    ids=[
        "motion photo", "marks behind the picture", "no last bytes", "long text", "long profile",
        "wrong checksum of a text", "wrong checksum of the gamma", "bitmap", "bitmap, alpha 0",
        "HEIC", "AVIF", "GIF animation", "PNG animation", "WebP animation", "AVIF animation",
    ],
)  # fmt: skip
def test_what_every_viewer_shows_is_read(make: Callable[[], bytes]) -> None:
    image = read_source(make())
    assert image.size == STILL.size
    middle = image.getpixel((32, 24))
    assert isinstance(middle, tuple)
    assert all(abs(one - other) <= 4 for one, other in zip(middle, ORANGE, strict=True))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_dark_picture_without_its_last_bytes_is_shown_and_one_without_most_is_not(
    mode: str, format_: str
) -> None:
    night = Image.new("L", (400, 400))
    night.paste(250, (150, 60, 220, 130))
    noise = Image.effect_noise((400, 400), 80)
    options = {"interlace": False} if format_ == "GIF" else {}
    kind = "L" if mode == "CMYK" and format_ != "JPEG" else mode
    whole = saved(night.convert(kind), format_, **options)
    moon = read_source(whole[:-8]).convert("L").getpixel((185, 95))
    assert isinstance(moon, int)
    assert moon > 230
    half = saved(noise.convert(kind), format_, **options)
    with pytest.raises(InvalidSource, match="damaged"):
        read_source(half[: len(half) // 4])


def test_a_picture_of_a_phone_is_read_smaller_than_it_is() -> None:
    image = read_source(saved(Image.new("RGB", (8_064, 6_048), ORANGE), "JPEG"))
    assert image.size == (4_032, 3_024)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_heic_picture_is_turned_upright_once(orientation: int) -> None:
    picture = Image.new("RGB", (64, 32), "blue")
    picture.paste((255, 0, 0), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = read_source(heic(picture, exif=exif.tobytes()))
    assert (shown.width > shown.height) == (orientation in (1, 3))
    first_half = {1: (8, 16), 3: (56, 16), 6: (16, 8), 8: (16, 56)}[orientation]
    red, _, blue = shown.getpixel(first_half)
    assert red > 200 > blue


def display_p3() -> bytes:
    """Return a profile as photos of iPhones have: the primaries of P3, and a plain gamma."""

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(v * 65_536)) for v in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 3) + b"p3\0" + bytes(79),
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2919, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1572, 0.0666, 0.7841),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x02400000) + b"mntrRGB XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + table + body


@pytest.mark.parametrize(
    ("format_", "mode"),
    [("JPEG", "RGB"), *itertools.product(["PNG", "WEBP", "HEIF", "AVIF"], ["RGB", "RGBA"])],
)
def test_colors_of_display_p3_become_those_of_a_screen(format_: str, mode: str) -> None:
    pillow_heif.register_heif_opener()
    green = Image.new(mode, (32, 32), (80, 160, 90))
    data = saved(green, format_, icc_profile=display_p3(), quality=100)
    # As Little CMS says; without the profile it would stay as dull as 80, 160, 90.
    red, rest_green, blue = decode(open_file(data)).image.getpixel((16, 16))
    assert (abs(red - 33) < 8, abs(rest_green - 164) < 4, abs(blue - 81) < 4) == (True,) * 3


@pytest.mark.parametrize("format_", ["HEIF", "AVIF"])
def test_a_picture_too_large_to_come_whole_comes_at_half(
    format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif.register_heif_opener()
    monkeypatch.setattr(decode_module, "SOURCE_PIXELS_MAX", 64 * 48 - 1)
    assert decode(open_file(saved(STILL, format_))).image.size == (32, 24)


def test_the_transparent_shade_of_sixteen_bits_is_shown_on_white() -> None:
    rows = (b"\0" + 8 * struct.pack(">H", 0x8000)) * 8
    header, *rest = png.split(png.picture(8, 8, rows, depth=16, colors=0))
    data = png.join([header, (b"tRNS", struct.pack(">H", 0x8000)), *rest])
    assert decode(open_file(data)).image.getpixel((4, 4)) == (255, 255, 255)


def test_a_profile_of_other_colors_than_the_picture_has_is_left_out() -> None:
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert read_source(saved(STILL, "PNG", icc_profile=linear)).getpixel((0, 0)) == ORANGE
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert read_source(saved(STILL, "PNG", icc_profile=lab)).getpixel((0, 0)) == ORANGE


INFOTEXT = "a red cat, (best)\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, Seed: 1"


def a1111_png() -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", INFOTEXT)
    return saved(STILL, "PNG", pnginfo=chunks)


def a1111_jpeg() -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + INFOTEXT.encode("utf-16-be")
    return saved(STILL, "JPEG", exif=exif)


@pytest.mark.parametrize("make", [a1111_png, a1111_jpeg])
def test_the_prompts_in_a_picture_of_automatic1111_are_read(make: Callable[[], bytes]) -> None:
    source = SourceReading(make(), Fit(native=64, multiple=8, most=64)).result()
    assert source.prompts is not None
    assert source.prompts.prompt == "a red cat, (best)"
    assert source.prompts.negative_prompt == "dogs"


@pytest.mark.parametrize(
    ("recipe", "prompt"), [(a_recipe().to_json(), a_recipe().prompt), ("{}", "a red cat, (best)")]
)
def test_our_own_recipe_comes_first_if_it_can_be_read(recipe: str, prompt: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("imagine-bot", recipe)
    chunks.add_text("parameters", INFOTEXT)
    data = saved(STILL, "PNG", pnginfo=chunks)
    source = SourceReading(data, Fit(native=64, multiple=8, most=64)).result()
    assert source.prompts is not None
    assert source.prompts.prompt == prompt


def run_length_bitmap(width: int, height: int, body: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 14 + 40 + 1_024
    file = struct.pack("<IHHI", start + len(body), 0, 0, start)
    return b"BM" + file + header + bytes(1_024) + body


def gif_of_comments() -> bytes:
    data = saved(Image.new("P", (32, 32)), "GIF")
    place = data.index(b",")
    return data[:place] + b"!\xfe\x01a\0" * 5_000_000 + data[place:]


def gif_of_frames() -> bytes:
    data = saved(Image.new("P", (32, 32)), "GIF")
    place = data.index(b",")
    return data[:place] + data[place:-1] * 100_000 + b";"


def webp_of_a_huge_canvas() -> bytes:
    frame = saved(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:]
    side = (16_384 - 1).to_bytes(3, "little")
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + side + side
    loop = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    place = bytes(6) + 2 * (15).to_bytes(3, "little") + (100).to_bytes(3, "little") + b"\0"
    body = b"WEBP" + canvas + loop + b"ANMF" + struct.pack("<I", len(place + frame)) + place + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def many_texts() -> bytes:
    bomb = zlib.compress(bytes(1_000_000))
    return with_chunk(b"".join(chunk(b"zTXt", b"k%d\0\0" % at + bomb) for at in range(100)))


_COST = """
import re, resource, sys, time
from pathlib import Path
from generation.errors import InvalidSource
from generation.images.files import read_source

def peak():
    return int(re.search(r"VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1])

data = sys.stdin.buffer.read()
before = peak()
try:
    read_source(data)
except InvalidSource as error:
    assert "\\n" not in str(error)
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
print(peak() - before, spent.ru_utime + spent.ru_stime)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what a process has used")
@pytest.mark.parametrize(
    "make",
    [
        lambda: run_length_bitmap(40_000_000, 1, b"\x01\0\0\0"),
        lambda: run_length_bitmap(6_324, 6_324, b"\0\x02\xff\xff" * 40),
        gif_of_comments,
        gif_of_frames,
        webp_of_a_huge_canvas,
        many_texts,
        lambda: png.picture(2**31 - 1, 2**31 - 1, b""),
    ],
    ids=["bitmap", "bitmap of leaps", "comments", "frames", "canvas", "texts", "size"],
)
def test_a_file_that_was_made_to_do_harm_costs_little(make: Callable[[], bytes]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COST], input=make(), capture_output=True, check=True
    )
    peak_kb, cpu_seconds = map(float, done.stdout.split())
    # The file itself, up to 25 MiB, is on its way to the process that reads it.
    assert peak_kb < 40_000
    assert cpu_seconds < 5


def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(files, "WALL_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(InvalidSource, match="takes too long to read"):
        read_source(PNG)
    assert time.monotonic() - start < 20


def test_a_process_that_ends_in_the_middle_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(InvalidSource, match="could not be read"):
        read_source(PNG)


def test_the_process_has_none_of_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    with files.Reader(PNG, "whole") as reader:
        if sys.platform == "linux":
            environment = Path(f"/proc/{reader._process.pid}/environ").read_bytes()
            assert b"secret" not in environment
        reader.answer()


def test_no_process_is_left_behind() -> None:
    before = psutil.Process().children()
    read_source(PNG)
    assert psutil.Process().children() == before
