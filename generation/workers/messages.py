"""The messages between the queue's process and the engine's: plain data, checked on arrival.

They are encoded as MessagePack. A message of an unknown kind, with a missing field or with a value
of the wrong type is refused when it is decoded. Nothing in a message can run code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from ..errors import (
    EngineFailed,
    EngineLost,
    GenerationError,
    InvalidRequest,
    InvalidSource,
    LoraError,
    MetadataError,
    ModelError,
    ModelNotHere,
    ModelTooLarge,
    NotFinite,
    OutOfMemory,
    PictureRefused,
    SetAside,
)
from ..timing import Measured
from ..values.inversion import Inversion
from ..values.lora import Lora
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage, Recipe
from ..values.request import GenerationRequest, SchedulerName, Spacing
from .protocol import ImageInProgress, ModelLoad, Sign

# The errors that an engine can report. Any other error is reported as its nearest base class.
_FAILURES: Final[Mapping[str, Callable[[Failure], GenerationError]]] = {
    "GenerationError": lambda failure: GenerationError(failure.sentence),
    "InvalidRequest": lambda failure: InvalidRequest(failure.field, failure.sentence),
    "InvalidSource": lambda failure: InvalidSource(failure.sentence),
    "LoraError": lambda failure: LoraError(failure.sentence),
    "ModelError": lambda failure: ModelError(failure.sentence),
    "ModelNotHere": lambda failure: ModelNotHere(failure.sentence),
    "ModelTooLarge": lambda failure: ModelTooLarge(failure.sentence),
    "EngineFailed": lambda failure: EngineFailed(failure.sentence),
    "OutOfMemory": lambda _: OutOfMemory(),
    "NotFinite": lambda _: NotFinite(),
    "SetAside": lambda _: SetAside(),
    "PictureRefused": lambda failure: PictureRefused(failure.sentence),
    "EngineLost": lambda failure: EngineLost(failure.sentence),
    "MetadataError": lambda failure: MetadataError(failure.sentence),
}
FailureKind = Literal[
    "GenerationError",
    "InvalidRequest",
    "InvalidSource",
    "LoraError",
    "ModelError",
    "ModelNotHere",
    "ModelTooLarge",
    "EngineFailed",
    "OutOfMemory",
    "NotFinite",
    "SetAside",
    "PictureRefused",
    "EngineLost",
    "MetadataError",
]


class BadMessage(Exception):
    """The data is no message of the kind that was expected."""


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message."""


class Failure(_Value, frozen=True):
    """A GenerationError; `field` names the value at fault of an InvalidRequest."""

    kind: FailureKind
    sentence: str
    field: str = ""

    @classmethod
    def of(cls, error: GenerationError) -> Self:
        """Return `error` as plain data."""
        kind: Any = next(
            base.__name__ for base in type(error).__mro__ if base.__name__ in _FAILURES
        )
        field = error.field if isinstance(error, InvalidRequest) else ""
        return cls(kind, printable(str(error)), field)

    def error(self) -> GenerationError:
        """Return the error again."""
        return _FAILURES[self.kind](self)


class ImageState(_Value, frozen=True):
    """The state of an image: the steps that are taken, and why there will be no picture, if so."""

    step: int
    steps: int
    done: bool
    failure: Failure | None

    @classmethod
    def of(cls, image: ImageInProgress) -> Self:
        """Return the state of an image of the engine."""
        progress, failure = image.progress, image.failure
        return cls(
            progress.step,
            progress.steps,
            image.done,
            None if failure is None else Failure.of(failure),
        )


class FinishedImage(_Value, frozen=True):
    """A finished picture; the recipe is in its JSON form."""

    index: int
    pixels: Pixels
    recipe: str

    @classmethod
    def of(cls, image: GeneratedImage) -> Self:
        """Return `image` as plain data."""
        return cls(image.index, image.pixels, image.recipe.to_json())

    def image(self) -> GeneratedImage:
        """Return the picture again.

        Raises:
            ValueError: the recipe is invalid.
        """
        recipe = Recipe.from_json(self.recipe)
        return GeneratedImage(index=self.index, pixels=self.pixels, recipe=recipe)


class NewJob(_Value, frozen=True, kw_only=True):
    """The fields of a GenerationRequest, and the numbers by which its images will be known."""

    images: tuple[int, ...]
    prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: int | float
    scheduler: SchedulerName
    negative_prompt: str
    count: int
    source: Pixels | None
    strength: int | float | None
    read_prompt: str | None
    read_negative_prompt: str | None
    references: tuple[Pixels, ...]
    spacing: Spacing | None
    guidance_rescale: int | float | None
    model: str | None
    loras: tuple[Lora, ...]
    inversions: tuple[Inversion, ...]

    @classmethod
    def of(cls, request: GenerationRequest, images: tuple[int, ...]) -> Self:
        """Return `request` as plain data.

        Raises:
            TypeError: the request is without its pixels.
        """
        fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
        pixels = {"source": request.pixels, "references": request.reference_pixels}
        return cls(images=images, **{**fields, **pixels})

    def request(self) -> GenerationRequest:
        """Return the request again.

        Raises:
            InvalidRequest: a value is out of range.
        """
        fields = msgspec.structs.asdict(self)
        del fields["images"]
        return GenerationRequest(**fields)


class _Request(_Value, frozen=True, tag=True, kw_only=True):
    """A call of the engine; `dropped` are the images that are no longer needed."""

    dropped: tuple[int, ...] = ()


class Start(_Request, frozen=True):
    """Build and load the engine that `spec` describes, and measure it: the first request of all.

    Only the function that builds the engine reads `spec`.
    """

    spec: str


class Measure(_Request, frozen=True):
    """Measure the engine again."""


class Load(_Request, frozen=True):
    """Load a model, if it is not in memory."""

    model: str


class Begin(_Request, frozen=True):
    """Begin the images of jobs."""

    jobs: tuple[NewJob, ...]


class Step(_Request, frozen=True):
    """Take the next step of images."""

    images: tuple[int, ...]


class Finish(_Request, frozen=True):
    """Decode images."""

    images: tuple[int, ...]


class Preview(_Request, frozen=True):
    """Make a small picture of an image."""

    image: int


class Release(_Request, frozen=True):
    """Forget the dropped images; there is no reply."""


class _Reply(_Value, frozen=True, tag=True):
    """A reply of the engine."""


class Loaded(_Reply, frozen=True):
    """The reply to Start and Measure."""

    measured: Measured


class ModelLoaded(_Reply, frozen=True):
    """The reply to Load: see `ModelLoad`."""

    measured: Measured | None
    failure: Failure | None
    loaded: tuple[str | None, ...]
    beside: tuple[str | None, ...]
    weights_sha256: str | None = None

    @classmethod
    def of(cls, load: ModelLoad) -> Self:
        """Return `load` as plain data."""
        failure = None if load.failure is None else Failure.of(load.failure)
        loaded, beside = tuple(load.loaded), tuple(load.beside)
        return cls(load.measured, failure, loaded, beside, load.weights_sha256)

    def result(self) -> ModelLoad:
        """Return the result again."""
        return ModelLoad(
            measured=self.measured,
            failure=None if self.failure is None else self.failure.error(),
            loaded=frozenset(self.loaded),
            beside=frozenset(self.beside),
            weights_sha256=self.weights_sha256,
        )


class Begun(_Reply, frozen=True):
    """The reply to Begin: for each job the states of its images, or why there are none."""

    jobs: tuple[tuple[ImageState, ...] | Failure, ...]


class Stepped(_Reply, frozen=True):
    """The reply to Step: the states of the images."""

    images: tuple[ImageState, ...]


class Finished(_Reply, frozen=True):
    """The reply to Finish: the pictures, as far as they are made, and the states of the images."""

    pictures: tuple[FinishedImage | None, ...]
    images: tuple[ImageState, ...]


class Previewed(_Reply, frozen=True):
    """The reply to Preview."""

    pixels: Pixels | None


class Refused(_Reply, frozen=True):
    """The engine cannot be loaded; its process ends."""

    failure: Failure


class Raised(_Reply, frozen=True):
    """The engine raised an unexpected error; it can go on."""

    error: str


class Lost(_Reply, frozen=True):
    """The engine raised an error after which its device does no more work; its process ends."""

    error: str


class SignOfLife(_Reply, frozen=True):
    """Not a reply: the call goes on."""

    sign: Sign


Request = Start | Measure | Load | Begin | Step | Finish | Preview | Release
Reply = (
    Loaded
    | ModelLoaded
    | Begun
    | Stepped
    | Finished
    | Previewed
    | Refused
    | Raised
    | Lost
    | SignOfLife
)

M = TypeVar("M")
_encoder: Final = msgspec.msgpack.Encoder()
_request_decoder: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_reply_decoder: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Return a message as bytes."""
    return _encoder.encode(message)


def decode_request(data: bytes | bytearray) -> Request:
    """Return the request in `data`.

    Raises:
        BadMessage: the data is no request.
    """
    return _decode(_request_decoder, data)


def decode_reply(data: bytes | bytearray) -> Reply:
    """Return the reply in `data`.

    Raises:
        BadMessage: the data is no reply.
    """
    return _decode(_reply_decoder, data)


def _decode(decoder: msgspec.msgpack.Decoder[M], data: bytes | bytearray) -> M:
    try:
        return decoder.decode(data)
    # The last two: text that is not UTF-8, and lists that are nested too deeply.
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadMessage(str(error)) from error


def printable(text: str) -> str:
    """Return `text` as valid Unicode: a file name in an error may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()
