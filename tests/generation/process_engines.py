"""Small engines that another process can build: they keep no networks, and fail on request."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from generation.errors import GenerationError, InvalidRequest, ModelError, OutOfMemory
from generation.timing import Measured
from generation.values.events import Progress
from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest
from generation.workers import server
from generation.workers.messages import Previewed, Stepped, encode
from generation.workers.protocol import OnSign, Sign

from .examples import a_recipe, a_request, gradient

MEASURED = Measured(pixels=4096, step_seconds={2: 0.5, 4: 0.75}, decode_seconds={1: 0.25})

# What an image gives as signs of life, and how long it takes after each.
SIGNS: dict[str, list[tuple[Sign, float]]] = {
    "slow": 5 * [("alive", 0.5)],
    "load": [("loading", 2.5)],
    "hang after a sign": [("alive", 600.0)],
}


@dataclass(eq=False)
class SmallImage:
    request: GenerationRequest
    index: int
    taken: int = 0
    failure: GenerationError | None = None

    @property
    def done(self) -> bool:
        return self.taken == self.request.steps

    @property
    def progress(self) -> Progress:
        return Progress(self.taken, self.request.steps)


class SmallEngine:
    """Does what the prompts of its requests say; `preview` tells how many images are alive."""

    def __init__(self, on_sign: OnSign) -> None:
        self._alive: weakref.WeakSet[SmallImage] = weakref.WeakSet()
        self._on_sign = on_sign

    def measured(self) -> Measured:
        return MEASURED

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[SmallImage] | GenerationError]:
        return [
            InvalidRequest("width", "The width is 72; use 64.")
            if request.prompt == "refuse"
            else self._begin(request)
            for request in requests
        ]

    def _begin(self, request: GenerationRequest) -> list[SmallImage]:
        images = [SmallImage(request.alone(index), index) for index in range(request.count)]
        self._alive.update(images)
        return images

    def step(self, images: Sequence[SmallImage]) -> None:
        for image in images:
            self._obey(image)
            image.taken += 1

    def _obey(self, image: SmallImage) -> None:
        for sign, seconds in SIGNS.get(image.request.prompt, ()):
            self._on_sign(sign)
            time.sleep(seconds)
        match image.request.prompt:
            case "hang":
                time.sleep(600)
            case "raise":
                raise RuntimeError("shapes do not match\nand more")
            case text if text.startswith("raise "):
                raise RuntimeError(text.removeprefix("raise "))
            case "exit":
                os._exit(3)
            case "fail":
                image.failure = OutOfMemory()
            case file if file.startswith("mourn "):
                weakref.finalize(image, Path(file.removeprefix("mourn ")).touch)
            case file if file.startswith("tell "):
                Path(file.removeprefix("tell ")).write_text(str(os.getpid()), encoding="ascii")
                spin()

    def finish(self, images: Sequence[SmallImage]) -> list[GeneratedImage | None]:
        return [
            GeneratedImage(
                index=image.index, pixels=gradient(), recipe=a_recipe(seed=image.request.seed)
            )
            if image.done
            else None
            for image in images
        ]

    def preview(self, image: SmallImage) -> Pixels | None:
        alive = len(self._alive)
        return Pixels(alive, 1, bytes(3 * alive)) if image.taken else None


def spin() -> None:
    """Be busy, as a device's driver may be, for longer than any test."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        pass


def small_engine(_: str, on_sign: OnSign) -> SmallEngine:
    return SmallEngine(on_sign)


def no_model(spec: str, _: OnSign) -> SmallEngine:
    raise ModelError(f"There is no model {spec!r}; use starter.")


def breaks_at_the_start(*_: object) -> SmallEngine:
    raise ValueError("not a sentence for people")


def never_loads(_: str, on_sign: OnSign) -> SmallEngine:
    time.sleep(600)
    return SmallEngine(on_sign)


def loads_slowly(_: str, on_sign: OnSign) -> SmallEngine:
    on_sign("alive")
    time.sleep(2.0)
    return SmallEngine(on_sign)


class Confused(SmallEngine):
    """Has its process answer a step with the reply that the prompt names."""

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[SmallImage] | GenerationError]:
        reply = {
            "nonsense": b"\xc1",
            "another kind": encode(Previewed(None)),
            "too few": encode(Stepped(())),
        }[requests[0].prompt]

        def encoded(message: object) -> bytes:
            return reply if isinstance(message, Stepped) else encode(message)  # type: ignore[arg-type]

        setattr(server, "encode", encoded)  # noqa: B010 - a patch, in a process of its own
        return super().begin(requests)


def confused(_: str, on_sign: OnSign) -> SmallEngine:
    return Confused(on_sign)


def starter_engine(_: str, on_sign: OnSign) -> object:
    """Return the real engine on the model that comes with the package, on one thread."""
    import torch  # noqa: PLC0415

    from generation.engine.engine import Engine  # noqa: PLC0415
    from generation.models.loading import load  # noqa: PLC0415
    from generation.models.locate import locate  # noqa: PLC0415

    torch.set_num_threads(1)
    return Engine(load(locate("starter"), device="cpu", dtype="float32"), on_sign=on_sign)


def lost_parent(file: str) -> None:
    """Start an engine, have it write its process id into `file`, and wait for its answer."""
    from generation.workers.process import EngineProcess  # noqa: PLC0415

    engine = EngineProcess(small_engine, timeout=600, load_timeout=600)
    engine.measured()
    [images] = engine.begin([a_request(prompt=f"tell {file}")])
    assert isinstance(images, list)
    engine.step(images)
