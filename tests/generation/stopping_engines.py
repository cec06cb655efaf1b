"""Small engines whose process stops as if it hung, where their requests say so."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.workers.protocol import OnSign

from .examples import a_recipe
from .process_engines import SmallEngine, SmallImage

Send = Callable[[socket.socket, memoryview], int]
_send: Send = socket.socket.send
SIDE = 512


class LargeAnswers(SmallEngine):
    """Makes pictures that no pipe holds at once, and sends them in the way of their prompt."""

    def finish(self, images: Sequence[SmallImage]) -> list[GeneratedImage | None]:
        sending = {"half": stop_after_some, "slowly": slowly}[images[0].request.prompt]
        setattr(socket.socket, "send", sending)  # noqa: B010 - a patch, in a process of its own
        pixels = Pixels(SIDE, SIDE, bytes(3 * SIDE * SIDE))
        recipe = a_recipe(pixels_sha256=pixels.sha256)
        return [GeneratedImage(index=image.index, pixels=pixels, recipe=recipe) for image in images]


def stop_after_some(end: socket.socket, data: memoryview) -> int:
    """Send a small part of a message, then stop this process."""
    sent = _send(end, data[:1000])
    if len(data) > sent:
        os.kill(os.getpid(), signal.SIGSTOP)
    return sent


def slowly(end: socket.socket, data: memoryview) -> int:
    """Send a part of a message after a while."""
    time.sleep(0.3)
    return _send(end, data[: 3 * SIDE * SIDE // 8])


def large_answers(_: str, on_sign: OnSign) -> LargeAnswers:
    return LargeAnswers(on_sign)
