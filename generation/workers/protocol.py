"""What the queue needs of an engine, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from ..errors import GenerationError
from ..timing import Measured
from ..values.events import Progress
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest

Sign = Literal["alive", "loading"]
OnSign: TypeAlias = Callable[[Sign], None]
"""A function that the engine calls after each network call, and before it loads a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoad:
    """The result of loading a model: how long its calls take, or why it cannot be loaded.

    `loaded` are the models in memory now, and `beside` those that fit in beside them.
    `weights_sha256` is the hash of the model's files.
    """

    measured: Measured | None
    failure: GenerationError | None
    loaded: Collection[str | None]
    beside: Collection[str | None] = ()
    weights_sha256: str | None = None


class ImageInProgress(Protocol):
    """An image on its way through an engine."""

    @property
    def done(self) -> bool:
        """Return whether only decoding is left."""

    @property
    def progress(self) -> Progress:
        """Return how many steps are taken."""

    @property
    def failure(self) -> GenerationError | None:
        """Return why there will be no picture, if so."""


I = TypeVar("I", bound=ImageInProgress)  # noqa: E741 - the one letter that says image


class EngineLike(Protocol[I]):
    """What the queue needs of an engine; see `generation.engine.engine.Engine`."""

    def measured(self) -> Measured:
        """Return how long calls of the default model take; wait until the engine is loaded."""

    def load(self, model: str) -> ModelLoad:
        """Load a model, if it is not in memory; others may have to leave the memory for it."""

    def begin(self, requests: Sequence[GenerationRequest]) -> list[list[I] | GenerationError]:
        """Return for each request its images at their first step, or why there are none."""

    def step(self, images: Sequence[I]) -> None:
        """Take one step of each of `images` that is neither done nor failed."""

    def finish(self, images: Sequence[I]) -> list[GeneratedImage | None]:
        """Return the pictures of images that are done; None for an image that is not, after all."""

    def preview(self, image: I) -> Pixels | None:
        """Return a small picture of what an image will be."""

    def release_unused(self) -> None:
        """Release what is no longer needed: there may be no call for a long time."""

    def close(self) -> None:
        """End the engine, in the middle of a call if it can; any thread may call this."""
