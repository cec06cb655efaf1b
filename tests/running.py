"""The installed bot as its own process, and the pictures that it has to make."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bot.ui.attachments import is_finished
from generation.engine.engine import Engine
from generation.models.loading import load
from generation.models.locate import locate
from generation.values.pixels import pixels_sha256
from generation.values.request import GenerationRequest

from .generation.examples import EDGE
from .rig import BotProcess, Discord, FileView, MessageView

# In the edit that brings the pictures, and in no other: previews have another name.
WITH_PICTURES = '"filename": "imagine-'
# On a CPU the last bits of a sum depend on how many threads share it. One is also by far the
# fastest where other programs want the cores.
_THREADS = 1


def imagine_bot(world: Discord, data: Path, *arguments: str, **settings: Any) -> BotProcess:
    """Return `imagine-bot run` on the folder `data`, with settings by their keys."""
    given = {f"IMAGINE_BOT_{key.upper()}": str(value) for key, value in settings.items()}
    return BotProcess(
        ["imagine-bot", "run", "--data", str(data), *arguments],
        world,
        # Not in the repository, where somebody's config.toml may lie.
        cwd=data.parent,
        env={"OMP_NUM_THREADS": str(_THREADS), "TERM": "dumb", "COLUMNS": "200", **given},
    )


class Reference:
    """Makes the pictures of a request one by one in this process."""

    def __init__(self) -> None:
        self._engine = Engine(load(locate("starter")))

    def pictures(self, request: GenerationRequest) -> list[str]:
        """Return the hashes of the pixels of all images of a request."""
        return [
            self._engine.generate(request.alone(index))[0].pixels.sha256
            for index in range(request.count)
        ]


@contextmanager
def reference() -> Iterator[Reference]:
    """Yield a `Reference` that computes as the bot's process does."""
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield Reference()
    finally:
        torch.set_num_threads(before)


def finished(message: MessageView) -> tuple[FileView, ...]:
    """Return the pictures of a message; a preview is none."""
    return tuple(file for file in message.attachments if is_finished([file.name]))


def shown(file: FileView, size: tuple[int, int] = (EDGE, EDGE)) -> str:
    """Return the hash of the pixels of a picture that was enlarged from `size` to be shown."""
    with Image.open(io.BytesIO(file.data)) as image:
        # Enlarged by a whole factor without any smoothing, so this undoes it to the last bit.
        small = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    return pixels_sha256(*small.size, small.tobytes())
