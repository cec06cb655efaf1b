"""Several models behind the interface of one engine, as many in memory as the budget allows.

A model is loaded when it is asked for. If the memory does not suffice, the models that were used
least recently leave it first. Images on their way keep their latents meanwhile and go on when
their model is back, with the same bits. They start again if the model's files have changed.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import torch

from ..errors import GenerationError, ModelError, ModelTooLarge, OutOfMemory
from ..timing import Measured
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest
from ..workers.protocol import ModelLoad, OnSign
from .calibration import Learned
from .denoising import Denoising, SuspendedImage
from .engine import Engine
from .memory import is_out_of_memory

log = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")

# A model that could not be loaded is not tried again sooner: each attempt may take a minute, and no
# picture is made meanwhile.
_RETRY_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Loadable:
    """A model that may be loaded; its weights take about `size` bytes of memory.

    `load` gets what was learned of the model when it was in memory before.
    """

    load: Callable[[Learned | None], Engine]
    size: int


class EnginePool:
    """The engines of several models by name, the default model first.

    The weights in memory take at most `budget` bytes; None stands for one model at a time. A model
    that is larger than the budget is alone. `on_sign` is called before and after a model is loaded.
    """

    def __init__(
        self,
        models: Mapping[str, Loadable],
        *,
        budget: int | None = None,
        on_sign: OnSign = lambda _: None,
    ) -> None:
        self._models = models
        self._default = next(iter(models))
        self._budget = budget
        self._on_sign = on_sign
        # The least recently used first.
        self._engines: dict[str, Engine] = {}
        self._sizes = {name: model.size for name, model in models.items()}
        self._learned: dict[str, Learned] = {}
        self._suspended: dict[str, list[SuspendedImage]] = {}
        self._failed: dict[str, tuple[float, GenerationError]] = {}

    def measured(self) -> Measured:
        """Return how long calls of the default model take, which is loaded if it is not.

        Raises:
            ModelError: the model cannot be loaded.
        """
        return self._engine(self._default).measured()

    def load(self, model: str) -> ModelLoad:
        """Load a model, if it is not in memory, and return which models are."""
        measured: Measured | None = None
        sha256: str | None = None
        failure = self._recent_failure(model)
        if failure is None:
            try:
                engine = self._engine(model)
                measured, sha256 = engine.measured(), engine.weights_sha256
            except GenerationError as error:
                failure = error.with_traceback(None)
            if failure is not None:
                log.error("The model %s cannot be loaded. %s", model, failure)
                self._failed[model] = (time.monotonic(), failure)
        return ModelLoad(
            measured=measured,
            failure=failure,
            loaded=frozenset(self._engines),
            beside=frozenset(name for name in self._models if self._fits(name)),
            weights_sha256=sha256,
        )

    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[Denoising] | GenerationError]:
        """Return for each request its images at their first step, or why there will be none."""
        return self._spread(requests, lambda request: request, self._begin)

    def _begin(
        self, model: str, requests: Sequence[GenerationRequest]
    ) -> Sequence[list[Denoising] | GenerationError]:
        try:
            engine = self._engine(model)
        except GenerationError as error:
            return [error.with_traceback(None)] * len(requests)
        return engine.begin(requests)

    def step(self, images: Sequence[Denoising]) -> None:
        """Take the next step of every image that is neither done nor failed."""

        def step(model: str, images: Sequence[Denoising]) -> Sequence[None]:
            self._engine(model).step(images)
            return [None] * len(images)

        self._spread(images, lambda image: image.request, step)

    def finish(self, images: Sequence[Denoising]) -> list[GeneratedImage | None]:
        """Return the pictures of images that are done; None for an image that is not, after all."""
        return self._spread(
            images,
            lambda image: image.request,
            lambda model, images: self._engine(model).finish(images),
        )

    def preview(self, image: Denoising) -> Pixels | None:
        """Return a small picture of what `image` will be; None if its model is not in memory."""
        engine = self._engines.get(self._name_of(image.request))
        return None if engine is None else engine.preview(image)

    def release_unused(self) -> None:
        """Do nothing: what is dropped here is gone at once."""

    def close(self) -> None:
        """Do nothing: a step here cannot be interrupted."""

    def _name_of(self, request: GenerationRequest) -> str:
        return self._default if request.model is None else request.model

    def _spread(
        self,
        items: Sequence[T],
        request_of: Callable[[T], GenerationRequest],
        call: Callable[[str, Sequence[T]], Sequence[R]],
    ) -> list[R]:
        """Call `call` for the items of each model, and return the results in the items' order."""
        groups: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            groups.setdefault(self._name_of(request_of(item)), []).append(number)
        results: dict[int, R] = {}
        for model, numbers in groups.items():
            found = call(model, [items[number] for number in numbers])
            results |= dict(zip(numbers, found, strict=True))
        return [results[number] for number in range(len(items))]

    def _engine(self, model: str) -> Engine:
        """Return the engine of a model, which is the most recently used one from now on.

        Raises:
            GenerationError: the model cannot be loaded.
        """
        engine = self._engines.pop(model, None) or self._loaded(model)
        self._engines[model] = engine
        return engine

    def _loaded(self, model: str) -> Engine:
        if model not in self._models:
            raise ModelError(f"There is no model {model!r} any more; choose another one.")
        self._on_sign("loading")
        try:
            self._make_room(model)
            engine = self._attempt(model)
        finally:
            self._on_sign("alive")
        engine.share_memory(partial(self._drop_other, model))
        before = self._learned.get(model)
        is_changed = before is not None and before.weights_sha256 != engine.weights_sha256
        if is_changed:
            log.warning("The files of the model %s have changed; its pictures start again", model)
        engine.resume(self._suspended.pop(model, []), restart=is_changed)
        self._failed.pop(model, None)
        return engine

    def _attempt(self, model: str) -> Engine:
        """Load a model; if the device's memory does not suffice, without any other model in it."""
        log.info("Loading the model %s", model)
        before = _allocated()
        engine = self._fitting(model)
        if engine is not None:
            # Of an offloaded model, only the part that computed last is on the device.
            self._sizes[model] = max(self._models[model].size, _allocated() - before)
            return engine
        _collect()
        if not self._engines:
            raise ModelTooLarge.named(model)
        log.warning("The model %s does not fit in beside others, which leave the memory", model)
        for other in list(self._engines):
            self._drop(other)
        return self._attempt(model)

    def _fitting(self, model: str) -> Engine | None:
        """Load a model; return None if the memory does not suffice for a call.

        An error would keep the networks in memory, so none about memory leaves this function.
        """
        try:
            engine = self._models[model].load(self._learned.get(model))
            engine.measured()
        except Exception as error:
            if isinstance(error, (ModelTooLarge, OutOfMemory)) or is_out_of_memory(error):
                return None
            raise
        return engine

    def _make_room(self, model: str) -> None:
        while self._engines and not self._fits(model):
            self._drop(next(iter(self._engines)))

    def _fits(self, model: str) -> bool:
        """Return whether a model that is not in memory fits in beside those that are."""
        if self._budget is None or model in self._engines:
            return not self._engines
        return sum(self._sizes[name] for name in (model, *self._engines)) <= self._budget

    def _drop_other(self, model: str, *, only_idle: bool) -> bool:
        """Drop the least recently used model beside `model`; return False if there is none.

        With `only_idle` models with images on their way stay.
        """
        for other, engine in self._engines.items():
            if other != model and (engine.is_idle or not only_idle):
                self._drop(other)
                return True
        return False

    def _drop(self, model: str) -> None:
        log.info("The model %s leaves the memory", model)
        engine = self._engines.pop(model)
        self._learned[model] = engine.learned
        self._suspended.setdefault(model, []).extend(engine.suspend())
        del engine
        _collect()

    def _recent_failure(self, model: str) -> GenerationError | None:
        since, failure = self._failed.get(model, (0.0, None))
        return failure if time.monotonic() < since + _RETRY_SECONDS else None


def _collect() -> None:
    """Free the memory of networks that nobody needs: they refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _allocated() -> int:
    """Return the bytes of tensors on the GPU; 0 without one."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0
