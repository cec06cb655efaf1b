"""The engine's own process: it builds the engine and answers the requests of `EngineProcess`."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from tqdm import tqdm

from ..errors import EngineFailed, GenerationError
from .messages import (
    Begin,
    Begun,
    Failure,
    Finish,
    Finished,
    FinishedImage,
    ImageState,
    Load,
    Loaded,
    Lost,
    Measure,
    ModelLoaded,
    NewJob,
    Preview,
    Previewed,
    Raised,
    Refused,
    Release,
    Reply,
    Request,
    SignOfLife,
    Start,
    Step,
    Stepped,
    decode_request,
    encode,
    printable,
)
from .pipe import Pipe
from .protocol import EngineLike, OnSign, Sign

log = logging.getLogger(__name__)

# If memory runs out, the system should end the engine and not the bot, which starts another engine.
_OOM_SCORE: Final = "500"
# Errors after which the process can do nothing more with its device.
_DEVICE_ERRORS: Final = (
    "CUDA error",
    "CUDA driver error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "HIP error",
    "Triton Error",
    "device-side assert",
    "unable to find an engine to execute",
)


Build: TypeAlias = Callable[[str, OnSign], EngineLike[Any]]
"""A function that builds an engine from its description, and gets the engine's sign of life."""


def serve(pipe: Pipe, build: Build) -> None:
    """Build the engine, and answer requests until the other end of the pipe is closed."""
    # A signal to the whole process group is for the bot, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    # tqdm's own lock is a semaphore of the system, which stays behind when this process is killed.
    tqdm.set_lock(threading.RLock())
    with contextlib.suppress(EOFError, OSError):
        _Server(pipe).run(build)


def _end_with_parent() -> None:
    """End this process when its parent is gone, even in the middle of a long call."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Server:
    """Answers one request after the other."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._is_loaded = False

    def run(self, build: Build) -> None:
        """Answer requests until the pipe is closed, or the engine is lost."""
        start = self._receive()
        if not isinstance(start, Start):
            raise TypeError(f"the first request is {start!r}, and no Start")
        try:
            engine = build(start.spec, self._send_sign)
            loaded = Loaded(engine.measured())
        except GenerationError as error:
            self._send(Refused(Failure.of(error)))
            return
        except Exception as error:
            log.exception("The engine could not be loaded")
            self._send(Refused(Failure.of(EngineFailed.at_load(error))))
            return
        self._send(loaded)
        self._is_loaded = True
        images = _Images(engine)
        while True:
            request = self._receive()
            images.forget(request.dropped)
            if isinstance(request, Release):
                continue
            reply, is_lost = _answer(images, request)
            self._pipe.send(reply)
            if is_lost:
                return

    def _receive(self) -> Request:
        return decode_request(self._pipe.receive())

    def _send(self, reply: Reply) -> None:
        self._pipe.send(encode(reply))

    def _send_sign(self, sign: Sign) -> None:
        # Until the engine is loaded, the other side waits with a longer timeout anyway.
        if self._is_loaded:
            self._send(SignOfLife(sign))


def _answer(images: _Images, request: Request) -> tuple[bytes, bool]:
    """Return the encoded reply to a request, and whether the engine is lost."""
    try:
        return encode(images.answer(request)), False
    except Exception as error:
        log.exception("The engine raised")
        lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
        text = printable(lines[0])
        is_lost = any(words in str(error) for words in _DEVICE_ERRORS)
        return encode(Lost(text) if is_lost else Raised(text)), is_lost


class _Images:
    """The engine, and its images by the numbers that the other side gave them."""

    def __init__(self, engine: EngineLike[Any]) -> None:
        self._engine = engine
        self._images: dict[int, Any] = {}

    def forget(self, numbers: Sequence[int]) -> None:
        """Drop images; an unknown number is ignored."""
        for number in numbers:
            self._images.pop(number, None)

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request.

        Raises:
            Exception: the engine raised it.
        """
        match request:
            case Load(model=model):
                return ModelLoaded.of(self._engine.load(model))
            case Begin(jobs=jobs):
                return self._begin(jobs)
            case Step(images=numbers):
                self._engine.step(self._known(numbers))
                return Stepped(self._states(numbers))
            case Finish(images=numbers):
                return self._finish(numbers)
            case Preview(image=number):
                return Previewed(self._engine.preview(self._images[number]))
            case Measure():
                return Loaded(self._engine.measured())
            case Start():
                raise ValueError("the engine is already built")
            case Release():
                raise ValueError("this request has no reply")

    def _begin(self, jobs: Sequence[NewJob]) -> Begun:
        begun = self._engine.begin([job.request() for job in jobs])
        replies: list[tuple[ImageState, ...] | Failure] = []
        for job, images in zip(jobs, begun, strict=True):
            if isinstance(images, GenerationError):
                replies.append(Failure.of(images))
            else:
                self._images.update(zip(job.images, images, strict=True))
                replies.append(self._states(job.images))
        return Begun(tuple(replies))

    def _finish(self, numbers: Sequence[int]) -> Finished:
        finished = self._engine.finish(self._known(numbers))
        pictures = tuple(None if image is None else FinishedImage.of(image) for image in finished)
        return Finished(pictures, self._states(numbers))

    def _known(self, numbers: Sequence[int]) -> list[Any]:
        return [self._images[number] for number in numbers]

    def _states(self, numbers: Sequence[int]) -> tuple[ImageState, ...]:
        return tuple(ImageState.of(image) for image in self._known(numbers))
