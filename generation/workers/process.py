"""An engine in a process of its own, driven as if it were here.

A device that hangs cannot be told to stop, and after some errors a CUDA context takes no
further work: only ending the process helps. It also keeps the event loop free of the
engine's hold on the interpreter, and this process free of torch.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from ..errors import EngineFailed, EngineLost, GenerationError
from ..timing import Measured
from ..values.events import Progress
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest
from .pipe import Pipe
from .protocol import OnSign

log = logging.getLogger(__name__)

_EXIT_SECONDS: Final = 5.0
# What the other process sends while a call goes on.
_SIGN: Final = "sign"
# Where memory runs out, the system is to end the engine and not the bot, which starts another.
_OOM_SCORE: Final = "500"
_LOAD_ADVICE: Final = " while it was loaded; check the device, or set a longer load_timeout"
# After these the process can do nothing more with its device.
_STICKY: Final = (
    "CUDA error",
    "CUDA driver error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "HIP error",
    "Triton Error",
    "device-side assert",
    "unable to find an engine to execute",
)


@dataclass(frozen=True, slots=True)
class _State:
    """What is known here of an image over there."""

    progress: Progress
    done: bool
    failure: GenerationError | None


class RemoteImage:
    """An image on its way in the other process; it is forgotten there when it is dropped here."""

    def __init__(self, number: int, state: _State) -> None:
        self.number = number
        self.state = state

    @property
    def done(self) -> bool:
        """Return whether only decoding is left."""
        return self.state.done

    @property
    def progress(self) -> Progress:
        """Return how many of its steps are taken."""
        return self.state.progress

    @property
    def failure(self) -> GenerationError | None:
        """Return why there will be no picture, if so."""
        return self.state.failure


class EngineError(Exception):
    """The engine raised what it should not have; its own traceback is in the log."""


class EngineProcess:
    """Starts a process that builds an engine by `build`, and passes calls on to it.

    `build` is pickled: a function of a module, or a partial of one; its argument is what the
    engine calls to show that it is alive. It counts as a hang when
    the process neither reads what is sent, nor answers, nor gives a sign of life for more than
    `timeout` seconds, and for more than `load_timeout` while a model is loaded.

    Every method raises:
        EngineLost: the process ended, hung, or lost its device; it is gone.
        EngineError: the engine raised; it can go on.
    """

    def __init__(
        self, build: Callable[[OnSign], Any], *, timeout: float, load_timeout: float
    ) -> None:
        self._timeout = timeout
        self._load_timeout = load_timeout
        self._numbers = itertools.count()
        self._dropped: list[int] = []
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = Pipe.pair()
        self._process = context.Process(
            target=_serve, args=(theirs, build), name="imagine-bot engine", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Return the number of the other process."""
        assert self._process.pid is not None  # noqa: S101 - it is started
        return self._process.pid

    def measured(self) -> Measured:
        """Wait until the engine is loaded; return what calls take.

        Raises:
            GenerationError: it cannot be loaded.
        """
        measured: Measured = self._call("measured", timeout=self._load_timeout, advice=_LOAD_ADVICE)
        return measured

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[RemoteImage] | GenerationError]:
        """Return for each request its images at their first step, or why there will be none."""
        wanted = [
            (request, [next(self._numbers) for _ in range(request.count)]) for request in requests
        ]
        answers: list[list[_State] | GenerationError] = self._call("begin", wanted)
        return [
            answer
            if isinstance(answer, GenerationError)
            else [self._image(number, state) for number, state in zip(numbers, answer, strict=True)]
            for (_, numbers), answer in zip(wanted, answers, strict=True)
        ]

    def step(self, images: Sequence[RemoteImage]) -> None:
        """Take the next step of every image that is neither done nor failed."""
        states = self._call("step", [image.number for image in images])
        _update(images, states)

    def finish(self, images: Sequence[RemoteImage]) -> list[GeneratedImage | None]:
        """Return the pictures of images that are done; None for those that are not after all."""
        pictures: list[GeneratedImage | None]
        pictures, states = self._call("finish", [image.number for image in images])
        _update(images, states)
        return pictures

    def preview(self, image: RemoteImage) -> Pixels | None:
        """Return a small picture of what `image` will be."""
        seen: Pixels | None = self._call("preview", image.number)
        return seen

    def release_unused(self) -> None:
        """Have what was dropped here forgotten there now, without waiting for an answer.

        It may be long until the next call, and networks are kept for as long as an image of theirs
        (see `generation.engine.engine`).
        """
        if dropped := self._take_dropped():
            try:
                self._pipe.send((None, (), dropped), self._timeout)
            except TimeoutError as error:
                raise self._hung(self._timeout) from error
            except OSError:
                log.debug("The engine's process is gone, as the next call will find")

    def close(self) -> None:
        """End the process at once, whatever it is doing; any thread may call this."""
        self._process.kill()

    def join(self) -> None:
        """Wait until the process is gone."""
        self._process.join(_EXIT_SECONDS)

    def _image(self, number: int, state: _State) -> RemoteImage:
        image = RemoteImage(number, state)
        # Whenever the garbage collector comes round, so not a call by itself.
        weakref.finalize(image, self._dropped.append, number).atexit = False
        return image

    def _take_dropped(self) -> list[int]:
        return [self._dropped.pop() for _ in range(len(self._dropped))]

    def _call(
        self, method: str, *arguments: Any, timeout: float | None = None, advice: str = ""
    ) -> Any:
        patience = self._timeout if timeout is None else timeout
        try:
            self._pipe.send((method, arguments, self._take_dropped()), patience)
            outcome, answer = self._answer(patience, advice)
        except TimeoutError as error:
            raise self._hung(patience, advice) from error
        except (EOFError, OSError) as error:
            self._process.join(_EXIT_SECONDS)
            code = self._process.exitcode
            raise self._lost(f"its process ended with exit code {code}") from error
        if outcome == "refused":
            self.close()
            raise answer
        if outcome == "raised":
            raise EngineError(answer)
        if outcome == "lost":
            raise self._lost(answer)
        return answer

    def _answer(self, patience: float, advice: str) -> tuple[str, Any]:
        """Return the outcome of a call, which may send signs of life for as long as it takes."""
        while True:
            try:
                outcome, answer = self._pipe.receive(patience)
            except TimeoutError as error:
                raise self._hung(patience, advice) from error
            if outcome != _SIGN:
                return outcome, answer
            is_loading = answer == "loading"
            patience = self._load_timeout if is_loading else self._timeout
            advice = _LOAD_ADVICE if is_loading else ""

    def _hung(self, patience: float, advice: str = "") -> EngineLost:
        return self._lost(f"it did not answer for {patience:g} s{advice}")

    def _lost(self, why: str) -> EngineLost:
        # The next one needs the memory of this one, which its end gives back.
        self.close()
        self.join()
        return EngineLost(f"The engine is lost: {why}.")


def _update(images: Sequence[RemoteImage], states: Sequence[_State]) -> None:
    for image, state in zip(images, states, strict=True):
        image.state = state


# From here on: the other process.


def _serve(pipe: Pipe, build: Callable[[OnSign], Any]) -> None:
    """Build the engine and answer calls until the other end goes away."""
    # A signal to the whole group is for the bot, which then ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    # Its own lock is a semaphore of the system, which is left behind when this process is ended.
    tqdm.set_lock(threading.RLock())
    with contextlib.suppress(EOFError, OSError):
        _answer_calls(pipe, build)


def _end_with_parent() -> None:
    """End this process when the parent is gone: it may be in the middle of a long call."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer_calls(pipe: Pipe, build: Callable[[OnSign], Any]) -> None:
    method, arguments, dropped = pipe.receive()
    try:
        engine = build(lambda sign: pipe.send((_SIGN, sign)))
        server = _Server(engine)
        measured = server.measured()
    except GenerationError as error:
        pipe.send(("refused", error.with_traceback(None)))
        return
    except Exception as error:
        log.exception("The engine could not be loaded")
        pipe.send(("refused", EngineFailed.at_load(error)))
        return
    pipe.send(("done", measured))
    while True:
        method, arguments, dropped = pipe.receive()
        server.forget(dropped)
        if method is None:
            continue
        outcome, answer = _attempt(getattr(server, method), arguments)
        pipe.send((outcome, answer))
        if outcome == "lost":
            return


def _attempt(call: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str, Any]:
    try:
        return "done", call(*arguments)
    except Exception as error:
        log.exception("The engine raised")
        text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
        sticky = any(words in str(error) for words in _STICKY)
        return ("lost" if sticky else "raised"), text


class _Server:
    """The engine with its images by the numbers that the other side gave them."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._images: dict[int, Any] = {}

    def measured(self) -> Measured:
        measured: Measured = self._engine.measured()
        return measured

    def forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._images.pop(number, None)

    def begin(
        self, wanted: Sequence[tuple[GenerationRequest, Sequence[int]]]
    ) -> list[list[_State] | GenerationError]:
        answers: list[list[_State] | GenerationError] = []
        begun = self._engine.begin([request for request, _ in wanted])
        for (_, numbers), images in zip(wanted, begun, strict=True):
            if isinstance(images, GenerationError):
                answers.append(images)
                continue
            self._images.update(zip(numbers, images, strict=True))
            answers.append(self._states(numbers))
        return answers

    def step(self, numbers: Sequence[int]) -> list[_State]:
        self._engine.step([self._images[number] for number in numbers])
        return self._states(numbers)

    def finish(self, numbers: Sequence[int]) -> tuple[list[GeneratedImage | None], list[_State]]:
        pictures = self._engine.finish([self._images[number] for number in numbers])
        return pictures, self._states(numbers)

    def preview(self, number: int) -> Pixels | None:
        seen: Pixels | None = self._engine.preview(self._images[number])
        return seen

    def _states(self, numbers: Sequence[int]) -> list[_State]:
        images = [self._images[number] for number in numbers]
        return [_State(image.progress, image.done, image.failure) for image in images]
