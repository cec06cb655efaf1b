"""The process that reads one image file from outside, and does nothing else.

Its standard input is a line of JSON and the bytes of the file. Its standard output is a line of
JSON and RGB pixels, row by row. `generation.images.files` starts it, and checks the recipe in the
answer: pydantic, which checks recipes, would take longer to load than most pictures to read.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import dataclasses
import json
import resource
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

# Image loads TiffImagePlugin only when it reads Exif data, which is too late here.
from PIL import Image, TiffImagePlugin  # noqa: F401

from ..errors import GenerationError
from .container import Format, format_of
from .decode import decode, open_file
from .limits import CPU_SECONDS, MEMORY_BYTES, WALL_SECONDS
from .pillow import as_reference, fitted, read_recipe_png, to_image
from .texts import TEXTS, prompts_of, recipe_of

_STRIP_PIXELS: Final = 2**20
_HEAD_BYTES_MAX: Final = 1_000
_SNIFFED: Final = 300
# If memory runs out, the system ends this process before any other.
_OOM_SCORE: Final = "1000"
# From Linux's prctl.h.
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def main() -> None:
    """Read the one file."""
    _limit()
    # Sizes are checked here anyway, and Pillow's warnings about damaged files are not needed.
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None
    source, answer = sys.stdin.buffer, sys.stdout.buffer
    head = json.loads(source.readline(_HEAD_BYTES_MAX))
    data = source.read(head["length"])
    if len(data) != head["length"]:
        return
    _prepare(format_of(data[:_SNIFFED]))
    _forbid_files()
    try:
        said, image = _TASKS[head["task"]](data, head)
    except GenerationError as error:
        _say(answer, {"refused": str(error)})
        return
    except Exception as error:
        _say(answer, {"failed": repr(error)})
        return
    _say(answer, {**said, "size": image.size})
    for strip in _strips(image):
        answer.write(strip)
    answer.flush()


def _limit() -> None:
    """Limit the resources of this process, as far as the system supports limits."""
    signal.alarm(WALL_SECONDS)
    limits = (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, most in limits:
        # The signal of the soft limit tells why the process ended, so it has to come first.
        hard = most + 1 if kind == resource.RLIMIT_CPU else most
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    if sys.platform == "linux":
        control = ctypes.CDLL(None).prctl
        control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _forbid_files() -> None:
    """Allow no more open files than the three that are open."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def _prepare(format_: Format | None) -> None:
    """Load the modules that read a format, while files may still be opened."""
    Image.preinit()
    for encoding in ("latin-1", "utf-16", "utf-16-be", "utf-16-le"):
        codecs.lookup(encoding)
    match format_:
        case "WEBP":
            from PIL import WebPImagePlugin  # noqa: F401, PLC0415
        case "AVIF":
            from PIL import AvifImagePlugin  # noqa: F401, PLC0415
        case "HEIF":
            import pillow_heif  # noqa: PLC0415

            pillow_heif.register_heif_opener(
                thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
            )


def _say(answer: BinaryIO, said: Mapping[str, Any]) -> None:
    answer.write(json.dumps(said).encode() + b"\n")
    answer.flush()


def _strips(image: Image.Image) -> Iterator[bytes]:
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))).tobytes()


def _whole(data: bytes, _: Mapping[str, Any]) -> tuple[dict[str, Any], Image.Image]:
    return {}, decode(open_file(data)).image


def _fitted(data: bytes, head: Mapping[str, Any]) -> tuple[dict[str, Any], Image.Image]:
    container = open_file(data, texts=TEXTS)
    decoded = decode(container)
    made_from = prompts_of(container, decoded.exif)
    said = dataclasses.asdict(made_from) if made_from else {}
    return {**said, "recipe": recipe_of(container)}, fitted(decoded.image, **head["fit"])


def _reference(data: bytes, head: Mapping[str, Any]) -> tuple[dict[str, Any], Image.Image]:
    return {}, as_reference(decode(open_file(data)).image, head["multiple"])


def _recipe(data: bytes, _: Mapping[str, Any]) -> tuple[dict[str, Any], Image.Image]:
    pixels, recipe, parameters = read_recipe_png(data)
    return {"recipe": recipe, "parameters": parameters}, to_image(pixels)


_TASKS: Final = {
    "whole": _whole,
    "fitted": _fitted,
    "reference": _reference,
    "recipe": _recipe,
}
