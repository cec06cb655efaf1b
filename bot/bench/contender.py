"""One contender in a process of its own: `python -m bot.bench.contender FOLDER`.

The process loads the contender and runs it in its main thread. Torch's OpenMP keeps a pool of
threads for each thread that computes. A model that is loaded in one thread and run in another has
two pools, and takes about twice its time. So each report says which share of the computing was
done by the thread that loaded the model. `bot.bench.rounds` refuses a report with a small share.

FOLDER holds `assignment.json`. The process writes `report.json` there and, if the assignment says
so, the pictures as `together.npy` and `alone.npy`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import psutil

from generation.catalog.profile import ModelProfile
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

from ..config import Settings
from ..listing import locate_listed
from .requests import requests

if TYPE_CHECKING:
    from generation.workers.process import EngineProcess

PixelArray = npt.NDArray[np.uint8]

USERS: Final = 8
PIPELINE: Final = "pipeline"
PIPELINE_COMPILED: Final = "pipeline compiled"
PIPELINE_WITH_OUR_KERNELS: Final = "pipeline with our kernels"
ENGINE: Final = "engine"
ENGINE_COMPILED: Final = "engine compiled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one process measures.

    The process makes one picture of `alone_steps` steps `repetitions` times. Then it makes the
    pictures of eight users; `steps` is the range of their steps.
    """

    contender: str
    settings: dict[str, Any]
    steps: tuple[int, int]
    alone_steps: int
    repetitions: int
    keeps_pictures: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one process measured; times are in seconds.

    `alone` has one time for each repetition. `ends` has the waiting time of each user. `own_share`
    is the share of the computing that was done by the thread that loaded the contender; None if
    the system does not tell. `threads` is the number of torch's threads.
    """

    contender: str
    device: str
    dtype: str
    alone: list[float]
    ends: list[float]
    own_share: float | None
    threads: int


class Contender(Protocol):
    """Something that makes pictures."""

    @property
    def device(self) -> str:
        """Return the name of the device; empty if it is not known."""

    @property
    def dtype(self) -> str:
        """Return the type of the numbers; empty if it is not known."""

    @property
    def process_id(self) -> int:
        """Return the process that computes."""

    @property
    def loading_thread(self) -> int:
        """Return the system's number of the thread that loaded the model."""

    def run(self, asked: Sequence[GenerationRequest]) -> tuple[list[PixelArray], list[float]]:
        """Return the pictures, and after how many seconds each user got their picture."""


class PipelineContender:
    """diffusers' own pipeline; see `bot.bench.reference`."""

    def __init__(self, settings: Settings, profile: ModelProfile, *, kind: str) -> None:
        # Imported here because it loads torch; the process of the other contender must not.
        from .reference import Reference  # noqa: PLC0415

        self.loading_thread = threading.get_native_id()
        self.process_id = psutil.Process().pid
        self._reference = Reference(
            profile,
            device=settings.device,
            dtype=settings.dtype,
            compiled=kind == PIPELINE_COMPILED,
        )
        if kind == PIPELINE_WITH_OUR_KERNELS:
            self._reference.sum_like_the_engine()
        self.device = self._reference.name
        self.dtype = str(self._reference.dtype).removeprefix("torch.")

    def run(self, asked: Sequence[GenerationRequest]) -> tuple[list[PixelArray], list[float]]:
        """Return the pictures, made one after the other."""
        return self._reference.timed(asked)

    def close(self) -> None:
        """Do nothing: the process ends."""


class EngineContender:
    """Our engine as the bot runs it: a queue in this process, and an engine process."""

    def __init__(self, settings: Settings, profile: ModelProfile) -> None:
        self.device = settings.device or ""
        self.dtype = settings.dtype or ""
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._engine: EngineProcess | None = None
        self._queue = self._loop.run_until_complete(self._open(settings, profile))

    async def _open(self, settings: Settings, profile: ModelProfile) -> Any:
        from ..engines import start_engine  # noqa: PLC0415
        from .users import queue_of  # noqa: PLC0415

        def start() -> EngineProcess:
            self._engine = start_engine(settings, {profile.name: profile})
            return self._engine

        queue = await self._stack.enter_async_context(queue_of(start, previews=settings.previews))
        await queue.ready()
        return queue

    @property
    def process_id(self) -> int:
        """Return the engine's process."""
        assert self._engine is not None  # noqa: S101 - the queue is ready
        return self._engine.pid

    @property
    def loading_thread(self) -> int:
        """Return the main thread of the engine's process, which has the process's id."""
        return self.process_id

    def run(self, asked: Sequence[GenerationRequest]) -> tuple[list[PixelArray], list[float]]:
        """Return the pictures of users who all ask at the same moment."""
        from .users import rush  # noqa: PLC0415

        made = self._loop.run_until_complete(rush(self._queue, asked))
        return [array(image) for image in made.images], made.ends

    def close(self) -> None:
        """Stop the engine."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()


def array(image: GeneratedImage) -> PixelArray:
    """Return the pixels [height, width, 3] of a picture."""
    pixels = image.pixels
    return np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)


def open_contender(
    kind: str, settings: Settings, profile: ModelProfile
) -> PipelineContender | EngineContender:
    """Load the contender called `kind` in the calling thread."""
    if kind in (ENGINE, ENGINE_COMPILED):
        compiled = settings.model_copy(update={"compile": kind == ENGINE_COMPILED})
        return EngineContender(compiled, profile)
    return PipelineContender(settings, profile, kind=kind)


class OwnShare:
    """The share of a process's computing that one of its threads does inside the block."""

    def __init__(self, process_id: int, thread: int) -> None:
        self._process = psutil.Process(process_id)
        self._thread = thread
        self.share: float | None = None

    def __enter__(self) -> OwnShare:
        self._before = self._seconds()
        return self

    def __exit__(self, *_: object) -> None:
        own, whole = (
            None if before is None or after is None else after - before
            for before, after in zip(self._before, self._seconds(), strict=True)
        )
        if own is not None and whole is not None:
            self.share = own / max(whole, 1e-9)

    def _seconds(self) -> tuple[float | None, float]:
        """Return the CPU seconds of the thread and of the whole process.

        The process's own count includes threads that have ended, unlike a sum over its threads.
        """
        threads = {one.id: one.user_time + one.system_time for one in self._process.threads()}
        taken = self._process.cpu_times()
        return threads.get(self._thread), taken.user + taken.system


def measure(
    contender: Contender, assignment: Assignment, profile: ModelProfile, *, threads: int
) -> tuple[Report, list[PixelArray], list[PixelArray]]:
    """Return the times of `contender`, and the users' pictures: made together, and made alone."""
    side = profile.native_size
    users = requests(USERS, side=side, steps=assignment.steps)
    [single] = requests(1, side=side, steps=(assignment.alone_steps,) * 2)
    contender.run([single])
    share = OwnShare(contender.process_id, contender.loading_thread)
    with share:
        alone = [contender.run([single])[1][0] for _ in range(assignment.repetitions)]
        together, ends = contender.run(users)
    by_one = [contender.run([user])[0][0] for user in users] if assignment.keeps_pictures else []
    report = Report(
        contender=assignment.contender,
        device=contender.device,
        dtype=contender.dtype,
        alone=alone,
        ends=ends,
        own_share=share.share,
        threads=threads,
    )
    return report, together, by_one


def carry_out(
    folder: Path,
    open_one: Callable[
        [str, Settings, ModelProfile], PipelineContender | EngineContender
    ] = open_contender,
) -> None:
    """Carry out the assignment in `folder` and write the report there."""
    given = json.loads((folder / "assignment.json").read_text("utf-8"))
    assignment = Assignment(**{**given, "steps": tuple(given["steps"])})
    settings = Settings(**assignment.settings)
    profile = locate_listed(settings.default_model)
    contender = open_one(assignment.contender, settings, profile)
    try:
        report, together, alone = measure(contender, assignment, profile, threads=_threads())
    finally:
        contender.close()
    if assignment.keeps_pictures:
        np.save(folder / "together.npy", np.stack(together))
        np.save(folder / "alone.npy", np.stack(alone))
    (folder / "report.json").write_text(json.dumps(asdict(report)), "utf-8")


def _threads() -> int:
    import torch  # noqa: PLC0415

    return torch.get_num_threads()


if __name__ == "__main__":
    carry_out(Path(sys.argv[1]))
