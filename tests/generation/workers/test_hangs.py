"""An engine process that stops as a hung device, a freezer or a debugger stops it: real SIGSTOP."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from generation.errors import EngineLost, GenerationError
from generation.queue.queue import GenerationQueue
from generation.values.pixels import Pixels
from generation.values.request import GenerationRequest
from generation.workers.process import EngineProcess
from generation.workers.server import Build

from ..examples import a_request
from ..process_engines import small_engine
from ..queues import EventLog, at_most, seeds_of
from ..stopping_engines import large_answers

TIMEOUT = 1.0
# What a loaded machine may take longer; far from the timeout of nothing at all.
NOTICED = 15.0


@contextmanager
def started(build: Build = small_engine, *, timeout: float = TIMEOUT) -> Iterator[EngineProcess]:
    engine = EngineProcess(build, timeout=timeout, load_timeout=60.0)
    try:
        engine.measured()
        yield engine
    finally:
        engine.close()
        engine.join()
        assert not engine._process.is_alive()


def stop(engine: EngineProcess) -> None:
    assert engine._process.pid
    os.kill(engine._process.pid, signal.SIGSTOP)


@contextmanager
def lost_in_time(engine: EngineProcess) -> Iterator[None]:
    """Expect that the block finds the engine lost, soon, and that its process is killed."""
    start = time.monotonic()
    # Or a test that fails would never end.
    emergency = threading.Timer(NOTICED, engine.close)
    emergency.start()
    try:
        with pytest.raises(EngineLost, match="did not answer for 1 s"):
            yield
    finally:
        emergency.cancel()
    assert time.monotonic() - start < NOTICED
    engine.join()
    assert engine._process.exitcode == -signal.SIGKILL


def from_a_picture() -> GenerationRequest:
    side = 512
    source = Pixels(side, side, bytes(3 * side * side))
    return a_request(width=side, height=side, source=source, strength=0.5)


@pytest.mark.parametrize("request_of", [a_request, from_a_picture], ids=["small", "picture"])
def test_an_engine_that_stopped_before_a_request_is_noticed(
    request_of: Callable[[], GenerationRequest],
) -> None:
    with started() as engine:
        stop(engine)
        with lost_in_time(engine):
            engine.begin([request_of()])


def test_an_engine_that_stops_between_two_calls_is_noticed() -> None:
    with started() as engine:
        [images] = engine.begin([a_request()])
        assert not isinstance(images, GenerationError)
        engine.step(images)
        stop(engine)
        with lost_in_time(engine):
            engine.step(images)


def test_an_engine_that_stops_in_the_middle_of_a_reply_is_noticed() -> None:
    with started(large_answers) as engine:
        [images] = engine.begin([a_request(prompt="half", steps=1)])
        assert not isinstance(images, GenerationError)
        engine.step(images)
        with lost_in_time(engine):
            engine.finish(images)


def test_a_large_reply_that_arrives_slowly_is_no_hang() -> None:
    with started(large_answers) as engine:
        [images] = engine.begin([a_request(prompt="slowly", steps=1)])
        assert not isinstance(images, GenerationError)
        engine.step(images)
        start = time.monotonic()
        [picture] = engine.finish(images)
        assert time.monotonic() - start > 2 * TIMEOUT
        assert picture
        assert picture.pixels.sha256 == picture.recipe.pixels_sha256


def test_releasing_images_never_blocks_on_a_stopped_engine() -> None:
    with started() as engine:
        [images] = engine.begin([a_request()])
        stop(engine)
        # With nothing to forget nothing is sent; with much, it is more than the pipe takes.
        engine.release_unused()
        del images
        gc.collect()
        engine._dropped.extend(range(300_000))
        with lost_in_time(engine):
            engine.release_unused()


def test_a_stopped_engine_is_closed_without_waiting_for_it() -> None:
    with started(timeout=600.0) as engine:
        stop(engine)
        threading.Timer(0.3, engine.close).start()
        start = time.monotonic()
        with pytest.raises(EngineLost):
            engine.begin([from_a_picture()])
        assert time.monotonic() - start < NOTICED


async def test_the_next_engine_makes_the_pictures_of_a_stopped_one() -> None:
    engines: list[EngineProcess] = []

    def make() -> EngineProcess:
        engines.append(EngineProcess(small_engine, timeout=TIMEOUT, load_timeout=60.0))
        return engines[-1]

    async with GenerationQueue(make, limits_for=at_most(9)) as queue:
        await queue.ready()
        stop(engines[0])
        tickets = [queue.submit(n, a_request(seed=n, steps=2), EventLog()) for n in (1, 2)]
        assert [await seeds_of(ticket) for ticket in tickets] == [[1], [2]]
    assert len(engines) == 2
