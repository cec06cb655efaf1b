"""The engine in another process: real processes, with engines that fail on request."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from generation.engine.engine import Engine
from generation.errors import (
    EngineFailed,
    EngineLost,
    GenerationError,
    InvalidRequest,
    ModelError,
    OutOfMemory,
)
from generation.models.stable_diffusion import StableDiffusion
from generation.queue.queue import GenerationQueue
from generation.values.events import Progress
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest
from generation.workers.process import EngineError, EngineProcess, RemoteImage
from generation.workers.server import Build

from .. import process_engines
from ..examples import a_request, latent_side
from ..queues import EventLog, at_most, seeds_of

PATIENCE = 60.0


@contextmanager
def started(
    build: Build = process_engines.small_engine,
    *,
    spec: str = "",
    timeout: float = PATIENCE,
    load_timeout: float = PATIENCE,
) -> Iterator[EngineProcess]:
    engine = EngineProcess(build, spec, timeout=timeout, load_timeout=load_timeout)
    try:
        yield engine
    finally:
        engine.close()
        engine.join()
        assert not engine._process.is_alive()


@pytest.fixture(scope="module")
def shared() -> Iterator[EngineProcess]:
    """One process for the tests that leave it whole."""
    with started() as engine:
        assert engine.measured() == process_engines.MEASURED
        yield engine


def begin(engine: EngineProcess, *requests: GenerationRequest) -> list[RemoteImage]:
    begun = engine.begin(requests)
    assert not any(isinstance(images, GenerationError) for images in begun)
    return [image for images in begun if isinstance(images, list) for image in images]


def test_calls_pass_through(shared: EngineProcess) -> None:
    first, refused, second = shared.begin(
        [a_request(count=2, steps=1), a_request(prompt="refuse"), a_request(seed=9, steps=2)]
    )
    assert isinstance(refused, InvalidRequest)
    assert (refused.field, str(refused)) == ("width", "The width is 72; use 64.")
    assert isinstance(first, list)
    assert isinstance(second, list)
    images = [*first, *second]
    assert [image.progress for image in images] == [Progress(0, 1), Progress(0, 1), Progress(0, 2)]
    assert shared.preview(images[0]) is None
    shared.step(images)
    assert [image.done for image in images] == [True, True, False]
    assert shared.preview(images[0]) is not None
    made = shared.finish(images)
    assert [picture.recipe.seed if picture else None for picture in made] == [7, 8, None]
    assert [picture.index for picture in made if picture] == [0, 1]
    shared.step(second)
    [last] = shared.finish(second)
    assert isinstance(last, GeneratedImage)


def test_the_failure_of_an_image_is_known_on_this_side(shared: EngineProcess) -> None:
    [image] = begin(shared, a_request(prompt="fail"))
    assert image.failure is None
    shared.step([image])
    assert isinstance(image.failure, OutOfMemory)


def test_an_engine_that_raises_an_error_goes_on(shared: EngineProcess) -> None:
    bad, good = begin(shared, a_request(prompt="raise"), a_request())
    with pytest.raises(EngineError) as caught:
        shared.step([bad])
    assert str(caught.value) == "RuntimeError: shapes do not match"
    shared.step([good])
    assert good.progress == Progress(1, 3)


def test_an_image_that_is_dropped_here_is_forgotten_there(
    shared: EngineProcess,
) -> None:
    [kept] = begin(shared, a_request())
    shared.step([kept])

    def alive() -> int:
        seen = shared.preview(kept)
        assert seen is not None
        return seen.width

    gc.collect()
    shared.step([kept])
    before = alive()
    others = begin(shared, a_request(count=4), a_request())
    assert alive() == before + 5
    del others
    gc.collect()
    shared.step([kept])
    assert alive() == before


async def test_an_idle_queue_has_images_forgotten_without_another_call(
    tmp_path: Path,
) -> None:
    async with GenerationQueue(
        lambda: EngineProcess(
            process_engines.small_engine, timeout=PATIENCE, load_timeout=PATIENCE
        ),
        limits_for=at_most(9),
    ) as queue:
        for file in (tmp_path / "first", tmp_path / "second"):
            ticket = queue.submit(1, a_request(prompt=f"mourn {file}", steps=1), EventLog())
            assert await seeds_of(ticket) == [7]
            await asyncio.to_thread(wait, file.exists)


def test_releasing_images_of_a_process_that_ended_raises_nothing() -> None:
    with started() as engine:
        engine.measured()
        images = begin(engine, a_request())
        engine.close()
        engine.join()
        del images
        engine.release_unused()
        with pytest.raises(EngineLost):
            begin(engine, a_request())


def test_an_error_of_loading_what_is_described_arrives_with_its_kind_and_sentence() -> None:
    with started(process_engines.no_model, spec="x") as engine:
        with pytest.raises(ModelError) as caught:
            engine.measured()
        assert str(caught.value) == "There is no model 'x'; use starter."


def test_an_unexpected_error_of_loading_becomes_a_sentence() -> None:
    with started(process_engines.breaks_at_the_start) as engine:
        with pytest.raises(EngineFailed) as caught:
            engine.measured()
        assert str(caught.value) == (
            "The model could not be loaded (ValueError: not a sentence for people); see the log."
        )


def test_a_step_that_hangs_ends_the_process() -> None:
    with started(timeout=2.0) as engine:
        engine.measured()
        images = begin(engine, a_request(prompt="hang"))
        with pytest.raises(EngineLost) as caught:
            engine.step(images)
        assert str(caught.value) == "The engine is lost: it did not answer for 2 s."
        engine.join()
        assert engine._process.exitcode == -signal.SIGKILL
        with pytest.raises(EngineLost):
            engine.step(images)


@pytest.mark.parametrize("prompt", ["slow", "load"])
def test_a_call_may_take_longer_while_there_are_signs_of_life(prompt: str) -> None:
    with started(timeout=1.5) as engine:
        engine.measured()
        images = begin(engine, a_request(prompt=prompt))
        start = time.monotonic()
        engine.step(images)
        assert time.monotonic() - start > 2.0
        assert images[0].progress.step == 1


def test_a_call_that_hangs_after_a_sign_of_life_ends_the_process() -> None:
    with started(timeout=2.0) as engine:
        engine.measured()
        images = begin(engine, a_request(prompt="hang after a sign"))
        with pytest.raises(EngineLost, match="did not answer for 2 s"):
            engine.step(images)


def test_the_system_ends_the_engine_first_when_memory_runs_out(shared: EngineProcess) -> None:
    def score(process: int | None) -> int:
        return int(Path(f"/proc/{process}/oom_score_adj").read_text("ascii"))

    if not Path("/proc/self/oom_score_adj").exists():
        pytest.skip("there is none here")
    assert score(shared._process.pid) > score(os.getpid())


def test_loading_that_hangs_ends_the_process() -> None:
    with started(process_engines.never_loads, load_timeout=0.5) as engine:
        with pytest.raises(EngineLost) as caught:
            engine.measured()
        assert str(caught.value) == (
            "The engine is lost: it did not answer for 0.5 s while it was loaded; check the "
            "device, or set a longer load_timeout."
        )
        engine.join()
        assert engine._process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("exit", "exit code 3"),
        ("raise CUDA error: device-side assert triggered", "device-side assert"),
        ("raise Triton Error [CUDA]: an illegal memory access was encountered", "illegal memory"),
        ("raise CUDA driver error: unspecified launch failure", "launch failure"),
        ("raise GET was unable to find an engine to execute this computation", "find an engine"),
    ],
)
def test_a_process_that_ends_or_loses_its_device_is_lost(prompt: str, why: str) -> None:
    with started() as engine:
        engine.measured()
        images = begin(engine, a_request(prompt=prompt))
        with pytest.raises(EngineLost, match=why):
            engine.step(images)
        engine.join()
        assert not engine._process.is_alive()
        with pytest.raises(EngineLost):
            begin(engine, a_request())


def test_a_process_that_is_killed_between_two_calls_is_lost() -> None:
    with started() as engine:
        engine.measured()
        assert engine._process.pid
        os.kill(engine._process.pid, signal.SIGKILL)
        with pytest.raises(EngineLost, match="exit code -9"):
            begin(engine, a_request())


@pytest.mark.parametrize("build", [process_engines.small_engine, process_engines.never_loads])
def test_closing_from_another_thread_ends_a_call(build: Build) -> None:
    with started(build, timeout=600, load_timeout=600) as engine:
        threading.Timer(1.0, engine.close).start()
        start = time.monotonic()
        with pytest.raises(EngineLost):
            hang(engine)
        assert time.monotonic() - start < PATIENCE


def hang(engine: EngineProcess) -> None:
    engine.measured()
    engine.step(begin(engine, a_request(prompt="hang")))


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("nonsense", "cannot be read"),
        ("another kind", "does not fit the request"),
        ("too few", "does not fit the request"),
    ],
)
def test_a_process_that_sends_nonsense_is_lost(prompt: str, reason: str) -> None:
    with started(process_engines.confused) as engine:
        engine.measured()
        images = begin(engine, a_request(prompt=prompt))
        with pytest.raises(EngineLost, match=reason):
            engine.step(images)
        engine.join()
        assert engine._process.exitcode == -signal.SIGKILL


def test_signs_of_life_do_not_shorten_the_time_to_load() -> None:
    with started(process_engines.loads_slowly, timeout=0.5) as engine:
        assert engine.measured() == process_engines.MEASURED


def test_signals_to_the_whole_group_do_not_end_it(shared: EngineProcess) -> None:
    assert shared._process.pid
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(shared._process.pid, number)
    [image] = begin(shared, a_request())
    shared.step([image])
    assert image.progress.step == 1


def test_it_ends_with_its_parent_even_in_the_middle_of_a_call(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    parent = multiprocessing.get_context("spawn").Process(
        target=process_engines.lost_parent, args=(str(file),)
    )
    parent.start()
    try:
        wait(lambda: file.is_file() and file.read_text(encoding="ascii"))
        child = int(file.read_text(encoding="ascii"))
        os.kill(child, 0)
        parent.kill()
        parent.join(PATIENCE)
        wait(lambda: not runs(child))
    finally:
        parent.kill()
        parent.join()


def runs(pid: int) -> bool:
    """Return whether there is such a process that is not merely waiting to be buried."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_the_real_engine_makes_the_same_pixels_in_another_process(
    engine: Engine, starter: StableDiffusion
) -> None:
    requests = [a_request(count=2), a_request(scheduler="lms", seed=3, guidance_scale=1.0)]
    expected = [picture for request in requests for picture in engine.generate(request)]
    with started(process_engines.starter_engine) as other:
        assert other.measured().pixels == starter.profile.native_size**2
        images = begin(other, *requests)
        while not all(image.done for image in images):
            other.step(images)
        seen = other.preview(images[0])
        assert seen is not None
        side = latent_side(requests[0].width, starter)
        assert (seen.width, seen.height) == (side, side)
        assert other.finish(images) == expected
