"""An engine in a process of its own, with the interface of an engine in this process.

A device that hangs cannot be told to stop, and after some errors a CUDA context does no more work.
Only ending the process helps. The process also keeps torch out of the bot, and the event loop free
of the engine's hold on the interpreter.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import weakref
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from ..errors import EngineLost, GenerationError
from ..timing import Measured
from ..values.events import Progress
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest
from .messages import (
    BadMessage,
    Begin,
    Begun,
    Failure,
    Finish,
    Finished,
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
    decode_reply,
    encode,
)
from .pipe import Pipe
from .protocol import ModelLoad
from .server import Build, serve

log = logging.getLogger(__name__)

_EXIT_SECONDS: Final = 5.0
_LOAD_ADVICE: Final = " while it was loaded; check the device, or set a longer load_timeout"

R = TypeVar("R", bound=Reply)


class RemoteImage:
    """An image in the other process, which forgets it when this object is garbage-collected."""

    def __init__(self, number: int, state: ImageState) -> None:
        self.number = number
        self.state = state
        self.failure = None if state.failure is None else state.failure.error()

    @property
    def done(self) -> bool:
        """Return whether only decoding is left."""
        return self.state.done

    @property
    def progress(self) -> Progress:
        """Return how many steps are taken."""
        return Progress(self.state.step, self.state.steps)

    def update(self, state: ImageState) -> None:
        """Set the state that the other process reported."""
        self.state = state
        self.failure = None if state.failure is None else state.failure.error()


class EngineError(Exception):
    """The engine raised an unexpected error; its traceback is in the log."""


class _Timeout(NamedTuple):
    """How many seconds the other process may be silent, and advice for a longer silence."""

    seconds: float
    advice: str = ""


class EngineProcess:
    """Starts a process that builds an engine with `build`, and passes calls on to it.

    `build` is a function of a module: `multiprocessing` hands over only its name. All else that the
    process gets is plain data (`generation.workers.messages`). `build` gets `spec`, which describes
    the engine, and a function that the engine calls as a sign of life.

    The process hangs if it neither reads, nor replies, nor sends a sign of life for `timeout`
    seconds, or for `load_timeout` seconds while it loads a model.

    Every method raises:
        EngineLost: the process ended, hung, lost its device or sent nonsense; it is gone.
        EngineError: the engine raised an error; it can go on.
    """

    def __init__(
        self, build: Build, spec: str = "", *, timeout: float, load_timeout: float
    ) -> None:
        self._spec: str | None = spec
        self._timeout = _Timeout(timeout)
        self._load_timeout = _Timeout(load_timeout, _LOAD_ADVICE)
        self._numbers = itertools.count()
        self._dropped: list[int] = []
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = Pipe.pair()
        self._process = context.Process(
            target=serve, args=(theirs, build), name="imagine-bot engine", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Return the id of the other process."""
        assert self._process.pid is not None  # noqa: S101 - it is started
        return self._process.pid

    def measured(self) -> Measured:
        """Wait until the engine is loaded; return how long its calls take.

        Raises:
            GenerationError: the engine cannot be loaded.
        """
        request = (
            Measure(dropped=self._take_dropped()) if self._spec is None else Start(spec=self._spec)
        )
        self._spec = None
        return self._call(request, Loaded, self._load_timeout).measured

    def load(self, model: str) -> ModelLoad:
        """Load a model, if it is not in memory; others may have to leave the memory for it."""
        request = Load(dropped=self._take_dropped(), model=model)
        return self._call(request, ModelLoaded, self._load_timeout).result()

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[RemoteImage] | GenerationError]:
        """Return for each request its images at their first step, or why there are none."""
        jobs = tuple(self._new_job(request) for request in requests)
        begun = self._call(Begin(dropped=self._take_dropped(), jobs=jobs), Begun).jobs
        self._check(len(begun) == len(jobs))
        return [self._images(job, states) for job, states in zip(jobs, begun, strict=True)]

    def step(self, images: Sequence[RemoteImage]) -> None:
        """Take the next step of every image that is neither done nor failed."""
        numbers = tuple(image.number for image in images)
        reply = self._call(Step(dropped=self._take_dropped(), images=numbers), Stepped)
        self._update(images, reply.images)

    def finish(self, images: Sequence[RemoteImage]) -> list[GeneratedImage | None]:
        """Return the pictures of images that are done; None for an image that is not, after all."""
        numbers = tuple(image.number for image in images)
        reply = self._call(Finish(dropped=self._take_dropped(), images=numbers), Finished)
        self._check(len(reply.pictures) == len(images))
        self._update(images, reply.images)
        try:
            return [None if picture is None else picture.image() for picture in reply.pictures]
        except ValueError as error:
            raise self._lost(f"it sent a recipe that cannot be read ({error})") from error

    def preview(self, image: RemoteImage) -> Pixels | None:
        """Return a small picture of what `image` will be."""
        request = Preview(dropped=self._take_dropped(), image=image.number)
        return self._call(request, Previewed).pixels

    def release_unused(self) -> None:
        """Tell the other process which images are no longer needed, without waiting for a reply.

        The next call may come much later, and images keep their networks in memory
        (see `generation.engine.engine`).
        """
        if dropped := self._take_dropped():
            try:
                self._send(Release(dropped=dropped), self._timeout)
            except OSError:
                log.debug("The engine's process is gone, as the next call will find")

    def close(self) -> None:
        """End the process at once, even in the middle of a call; any thread may call this."""
        self._process.kill()

    def join(self) -> None:
        """Wait until the process is gone."""
        self._process.join(_EXIT_SECONDS)

    def _new_job(self, request: GenerationRequest) -> NewJob:
        return NewJob.of(request, tuple(next(self._numbers) for _ in range(request.count)))

    def _images(
        self, job: NewJob, states: tuple[ImageState, ...] | Failure
    ) -> list[RemoteImage] | GenerationError:
        if isinstance(states, Failure):
            return states.error()
        self._check(len(states) == len(job.images))
        return [
            self._image(number, state) for number, state in zip(job.images, states, strict=True)
        ]

    def _image(self, number: int, state: ImageState) -> RemoteImage:
        image = RemoteImage(number, state)
        # The garbage collector may run at any time, so the number is only noted here.
        weakref.finalize(image, self._dropped.append, number).atexit = False
        return image

    def _take_dropped(self) -> tuple[int, ...]:
        return tuple(self._dropped.pop() for _ in range(len(self._dropped)))

    def _update(self, images: Sequence[RemoteImage], states: Sequence[ImageState]) -> None:
        self._check(len(states) == len(images))
        for image, state in zip(images, states, strict=True):
            image.update(state)

    def _call(self, request: Request, expected: type[R], timeout: _Timeout | None = None) -> R:
        """Return the reply to a request, which has to be of the kind `expected`."""
        timeout = timeout or self._timeout
        try:
            self._send(request, timeout)
            reply = self._receive(timeout)
        except (EOFError, OSError) as error:
            self._process.join(_EXIT_SECONDS)
            code = self._process.exitcode
            raise self._lost(f"its process ended with exit code {code}") from error
        match reply:
            case Refused(failure=failure):
                self.close()
                raise failure.error()
            case Raised(error=text):
                raise EngineError(text)
            case Lost(error=text):
                raise self._lost(text)
        if not isinstance(reply, expected):
            raise self._misfit()
        return reply

    def _send(self, request: Request, timeout: _Timeout) -> None:
        try:
            self._pipe.send(encode(request), timeout.seconds)
        except TimeoutError as error:
            raise self._hung(timeout) from error

    def _receive(self, timeout: _Timeout) -> Reply:
        """Return the reply of a call, which may send signs of life until then."""
        while True:
            try:
                reply = decode_reply(self._pipe.receive(timeout.seconds))
            except TimeoutError as error:
                raise self._hung(timeout) from error
            except BadMessage as error:
                raise self._lost(f"it sent a message that cannot be read ({error})") from error
            if not isinstance(reply, SignOfLife):
                return reply
            timeout = self._load_timeout if reply.sign == "loading" else self._timeout

    def _check(self, is_right: bool) -> None:
        if not is_right:
            raise self._misfit()

    def _misfit(self) -> EngineLost:
        return self._lost("its reply does not fit the request")

    def _hung(self, timeout: _Timeout) -> EngineLost:
        return self._lost(f"it did not answer for {timeout.seconds:g} s{timeout.advice}")

    def _lost(self, reason: str) -> EngineLost:
        # The next engine needs the memory of this one, which is free when the process is gone.
        self.close()
        self.join()
        return EngineLost(f"The engine is lost: {reason}.")
