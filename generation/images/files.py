"""Image files from outside, read in a separate process.

A malicious file can take any time and memory to decode, or use a bug of a decoder. So the bytes go
to a process with limits on both, without the bot's secrets and connections, and plain pixels come
back (`generation.images.child`). The process starts in a fraction of a second, reads one file and
ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, Self, cast

from PIL import Image

from ..errors import InvalidSource
from ..values.pixels import Pixels
from ..values.recipe import Recipe
from ..values.request import PROMPT_LENGTH, SIZE_MAX
from .infotext import Prompts, prompts
from .limits import SOURCE_BYTES_MAX, SOURCE_PIXELS_MAX, TEXT_BYTES_MAX, WALL_SECONDS

log = logging.getLogger(__name__)

Task = Literal["whole", "fitted", "reference", "recipe"]

# The arguments are the folders of this package and of the libraries.
_START: Final = (
    "import sys; sys.path[:0] = sys.argv[1:]; from generation.images.child import main; main()"
)
# The interpreter finds its libraries by these variables. None of them holds the token.
_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# Two texts of a file, and two prompts; JSON may need twelve bytes for a character.
_HEAD_BYTES_MAX: Final = 24 * (TEXT_BYTES_MAX + PROMPT_LENGTH) + 1_000
_STRIP_PIXELS: Final = 2**20
_SENTENCE_LENGTH: Final = 500
_TOO_LONG: Final = "That image takes too long to read; save it again and send it once more."
_UNREADABLE: Final = "That image could not be read; save it as PNG or JPEG and send it once more."


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The size to which a picture is scaled, see `fitted_size`; a side can be given."""

    native: int
    multiple: int
    most: int
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFit:
    """The sides of a reference are multiples of `multiple`, see `as_reference`."""

    multiple: int


@dataclass(frozen=True, slots=True)
class Source:
    """A picture to start from, and the prompts that are written in its file."""

    pixels: Pixels
    prompts: Prompts | None


class Reader:
    """A process that reads one file. It is used once, in a `with` block, which ends the process.

    Every failure is an InvalidSource with a sentence for the person. Any thread may call `kill`.

    Raises:
        InvalidSource: the file has too many bytes.
    """

    def __init__(self, data: bytes | bytearray, task: Task, **options: object) -> None:
        check_bytes(len(data))
        self._data = data
        self._head = json.dumps({"task": task, "length": len(data), **options})
        self._timed_out = False
        # The program is this interpreter, and no argument comes from outside.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _START, *_import_path()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        self._to = cast("IO[bytes]", self._process.stdin)
        self._from = cast("IO[bytes]", self._process.stdout)
        self._timer = threading.Timer(WALL_SECONDS, self._time_out)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.kill()
        for pipe in (self._to, self._from):
            # The rest of the file is no longer needed.
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        self._process.kill()

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()

    def answer(self) -> dict[str, Any]:
        """Send the file, and return what the process says before the pixels."""
        # If the process has ended, its answer is missing below.
        with contextlib.suppress(OSError):
            self._to.write(self._head.encode() + b"\n")
            self._to.write(self._data)
            self._to.close()
        self._data = b""
        try:
            said = json.loads(self._from.readline(_HEAD_BYTES_MAX))
        except (ValueError, RecursionError) as error:
            raise self._failure() from error
        if not isinstance(said, dict):
            raise self._failure()
        if (failed := said.get("failed")) is not None:
            log.error("A file could not be read: %s", str(failed)[:_SENTENCE_LENGTH])
            raise InvalidSource(_UNREADABLE)
        if (refused := said.get("refused")) is not None:
            raise InvalidSource(" ".join(str(refused)[:_SENTENCE_LENGTH].split()))
        return said

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes of the pixels."""
        read = self._from.read(count)
        if len(read) != count:
            raise self._failure()
        return read

    def size(self, said: dict[str, Any], most: int) -> tuple[int, int]:
        """Return the size of the picture that follows, which has at most `most` pixels."""
        match said.get("size"):
            case [int(width), int(height)] if width > 0 < height and width * height <= most:
                return width, height
        raise self._failure()

    def _failure(self) -> InvalidSource:
        self.kill()
        ended_by_time = self._timed_out or self._process.wait() == -signal.SIGXCPU
        return InvalidSource(_TOO_LONG if ended_by_time else _UNREADABLE)


def check_bytes(count: int) -> None:
    """Refuse a file of too many bytes.

    Raises:
        InvalidSource: `count` is above the limit.
    """
    if count > SOURCE_BYTES_MAX:
        raise InvalidSource(
            f"That file has {count / 2**20:.0f} MiB; send an image of at most "
            f"{SOURCE_BYTES_MAX // 2**20} MiB."
        )


def read_source(data: bytes) -> Image.Image:
    """Return the picture in the file `data`, upright and in RGB (sRGB), transparency on white.

    A JPEG of more than 40 million pixels is reduced to a half, a quarter or an eighth of its size.

    Raises:
        InvalidSource: the file is no image, is damaged or too large, or takes too much time or
            memory to read.
    """
    with Reader(data, "whole") as reader:
        width, height = reader.size(reader.answer(), SOURCE_PIXELS_MAX)
        image = Image.new("RGB", (width, height))
        rows = max(1, _STRIP_PIXELS // width)
        for top in range(0, height, rows):
            strip = (width, min(rows, height - top))
            pixels = reader.bytes(3 * strip[0] * strip[1])
            image.paste(Image.frombytes("RGB", strip, pixels), (0, top))
        return image


def read_recipe(data: bytes) -> tuple[Pixels, str, str]:
    """Return the pixels of one of our PNG files, its recipe (unchecked JSON) and `parameters`.

    Raises:
        InvalidSource: the file is not such a PNG, or cannot be read.
    """
    with Reader(data, "recipe") as reader:
        said = reader.answer()
        pixels = _pixels(reader, reader.size(said, SOURCE_PIXELS_MAX))
        return pixels, str(said.get("recipe")), str(said.get("parameters"))


class SourceReading:
    """Reads a file from outside and scales the picture: to start from, or to look at.

    Raises:
        InvalidSource: the file has too many bytes.
    """

    def __init__(self, data: bytes | bytearray, fit: Fit | ReferenceFit) -> None:
        check_bytes(len(data))
        self._data = data
        self._fit = fit
        self._reader: Reader | None = None
        self._given_up = False

    def result(self) -> Source:
        """Start the process and wait for the picture; call this once.

        Raises:
            InvalidSource: as for `read_source`.
        """
        if isinstance(self._fit, Fit):
            self._reader = Reader(self._data, "fitted", fit=dataclasses.asdict(self._fit))
        else:
            self._reader = Reader(self._data, "reference", multiple=self._fit.multiple)
        self._data = b""
        with self._reader as reader:
            if self._given_up:
                reader.kill()
            said = reader.answer()
            pixels = _pixels(reader, reader.size(said, SIZE_MAX**2))
            return Source(pixels, _prompts(said))

    def kill(self) -> None:
        """Stop reading at once, even before the start; any thread may call this."""
        self._given_up = True
        if self._reader is not None:
            self._reader.kill()


def _pixels(reader: Reader, size: tuple[int, int]) -> Pixels:
    width, height = size
    return Pixels(width, height, reader.bytes(3 * width * height))


def _prompts(said: Mapping[str, Any]) -> Prompts | None:
    """Return the prompts of our own recipe in a picture, or else those of another program."""
    recipe = said.get("recipe")
    if isinstance(recipe, str):
        try:
            made = Recipe.from_json(recipe)
            return prompts(made.prompt, made.negative_prompt)
        except ValueError as error:
            log.debug("The recipe in a picture cannot be read: %s", error)
    prompt, negative_prompt = said.get("prompt"), said.get("negative_prompt")
    return prompts(str(prompt), str(negative_prompt or "")) if prompt else None


def _import_path() -> list[str]:
    """Return the folders of this package and of the libraries."""
    package = Path(__file__).resolve().parents[2]
    return [str(package), *(os.path.abspath(entry) for entry in sys.path if entry)]  # noqa: PTH100
