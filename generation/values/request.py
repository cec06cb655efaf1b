"""A request for pictures, checked when it is made, and the limits of its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

from ..errors import InvalidRequest
from .inversion import Inversion, check_inversions
from .lora import Lora, check_loras
from .pixels import Pixels, StoredPixels

SchedulerName = Literal[
    "lms",
    "ddim",
    "euler",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_sde",
    "unipc",
    "ddpm",
    "lcm",
    "tcd",
]
SCHEDULERS: Final[tuple[SchedulerName, ...]] = get_args(SchedulerName)
Spacing = Literal["karras", "exponential", "beta", "trailing"]
SPACINGS: Final[tuple[Spacing, ...]] = get_args(Spacing)

PROMPT_LENGTH: Final = 1_000
# The limit for a prompt in which emoji are spelled by their names.
READ_LENGTH: Final = 10_000
SEED_MAX: Final = 2**32 - 1
STEPS_MIN: Final = 1
STEPS_MAX: Final = 150
GUIDANCE_MIN: Final = 1.0
GUIDANCE_MAX: Final = 30.0
RESCALE_MAX: Final = 1.0
SIZE_MIN: Final = 32
SIZE_MAX: Final = 2_048
SIZE_MULTIPLE: Final = 8
COUNT_MAX: Final = 4
STRENGTH_MIN: Final = 0.05
STRENGTH_MAX: Final = 1.0
REFERENCES_MAX: Final = 4
REFERENCE_SIDE_MIN: Final = 64
# Models that edit are trained on references of about a megapixel.
REFERENCE_AREA_MAX: Final = 1_024 * 1_024


def start_step(steps: int, strength: float | None) -> int:
    """Return the first step of `steps` that is taken: 0 from pure noise, later from an image.

    The number of steps that are taken is `steps * strength`, cut to a whole number as in diffusers'
    img2img pipeline, but at least one.
    """
    if strength is None:
        return 0
    return steps - min(max(int(steps * strength), 1), steps)


@dataclass(frozen=True, slots=True)
class Told:
    """A text for the model; with `keeps_unknown` it keeps what the tokenizer does not know."""

    text: str
    keeps_unknown: bool = False

    @classmethod
    def of(cls, typed: str, read: str | None) -> Self:
        """Return the text `read`; without it, `typed` as before version 0.2."""
        return cls(typed, keeps_unknown=True) if read is None else cls(read)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request for `count` images, checked when it is made.

    Image `k` has the seed `seed + k` modulo 2**32. With a `source` the images start from that
    picture (similar images), which has the size of the images. `strength` is then the share of the
    denoising that is done, from almost none (0.05) to all (1.0). `references` are the pictures that
    a model for editing looks at, in the order in which the prompt counts them; each may have a size
    of its own. While the request waits its pictures may be StoredPixels; an engine needs the
    pixels.

    `guidance_rescale`, from 0 to 1, says how much of the contrast that guidance adds is taken away
    again (`generation.models.guidance.rescale`); None means nothing. `spacing` says how the noise
    levels of the steps are spaced; None leaves that to the model. Which schedulers and spacings fit
    which model is checked in `generation.schedulers.fitting`.

    `prompt` and `negative_prompt` are the texts that the person typed. `read_prompt` and
    `read_negative_prompt` are the texts that the model reads instead: in plain letters, with the
    names of emoji (`generation.values.spelling`). In requests from before version 0.2 these are
    None, and the model reads what was typed. `loras` change the weights of the model; where the
    prompt names some, `read_prompt` no longer does. `inversions` are words of the prompts for which
    the model reads learned vectors.

    `model` is the name of the model in the operator's list; None means the default model.

    Raises:
        InvalidRequest: a value is out of range; its sentence says which and what fits.
    """

    prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: SchedulerName
    negative_prompt: str = ""
    count: int = 1
    source: Pixels | StoredPixels | None = None
    strength: float | None = None
    read_prompt: str | None = None
    read_negative_prompt: str | None = None
    references: tuple[Pixels | StoredPixels, ...] = ()
    spacing: Spacing | None = None
    guidance_rescale: float | None = None
    model: str | None = None
    loras: tuple[Lora, ...] = ()
    inversions: tuple[Inversion, ...] = ()

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt, required=True)
        _check_text("negative prompt", self.negative_prompt, required=False)
        _check_reading("prompt", self.read_prompt, required=True)
        _check_reading("negative prompt", self.read_negative_prompt, required=False)
        _check_range("seed", self.seed, 0, SEED_MAX, whole=True)
        _check_range("steps", self.steps, STEPS_MIN, STEPS_MAX, whole=True)
        _check_range("guidance scale", self.guidance_scale, GUIDANCE_MIN, GUIDANCE_MAX)
        _check_range("count", self.count, 1, COUNT_MAX, whole=True)
        _check_size("width", self.width)
        _check_size("height", self.height)
        _check_name("scheduler", self.scheduler, SCHEDULERS)
        if self.guidance_rescale is not None:
            _check_range("guidance rescale", self.guidance_rescale, 0.0, RESCALE_MAX)
        if self.spacing is not None:
            _check_name("spacing", self.spacing, SPACINGS)
        self._check_source()
        _check_references(self.references)
        check_loras(self.loras)
        check_inversions(self.inversions)

    def _check_source(self) -> None:
        if self.source is None:
            if self.strength is not None:
                raise InvalidRequest(
                    "strength", "A strength needs an image to start from; add an image."
                )
            return
        if self.strength is None:
            raise InvalidRequest("strength", "An image to start from needs a strength, say 0.6.")
        _check_range("strength", self.strength, STRENGTH_MIN, STRENGTH_MAX)
        if (self.source.width, self.source.height) != (self.width, self.height):
            raise InvalidRequest(
                "image",
                f"The image is {self.source.width}x{self.source.height} but the picture is to be "
                f"{self.width}x{self.height}; give both the same size.",
            )

    @property
    def is_guided(self) -> bool:
        """Return whether the guidance scale needs an unconditional prediction: only above 1."""
        return self.guidance_scale > 1.0

    @property
    def rows(self) -> int:
        """Return how many rows each image adds to a call of the network: 2 if guided, else 1."""
        return 2 if self.is_guided else 1

    @property
    def told(self) -> Told:
        """Return the prompt that the model reads."""
        return Told.of(self.prompt, self.read_prompt)

    @property
    def told_negative(self) -> Told:
        """Return the negative prompt that the model reads."""
        return Told.of(self.negative_prompt, self.read_negative_prompt)

    def seed_of(self, index: int) -> int:
        """Return the seed of image `index`, counted from 0."""
        return (self.seed + index) % (SEED_MAX + 1)

    @property
    def pixels(self) -> Pixels | None:
        """Return the pixels that the images start from; None if they start from noise.

        Raises:
            TypeError: the pixels are stored and not in memory.
        """
        if isinstance(self.source, StoredPixels):
            raise TypeError("the pixels that this request starts from have not been read")
        return self.source

    @property
    def reference_pixels(self) -> tuple[Pixels, ...]:
        """Return the pixels of the references.

        Raises:
            TypeError: the pixels are stored and not in memory.
        """
        read = tuple(picture for picture in self.references if isinstance(picture, Pixels))
        if len(read) != len(self.references):
            raise TypeError("the pixels of the references have not been read")
        return read

    @property
    def pictures(self) -> tuple[Pixels | StoredPixels, ...]:
        """Return the source, if there is one, and the references."""
        return self.references if self.source is None else (self.source, *self.references)

    def without_pixels(self) -> Self:
        """Return the request with the sizes of its pictures in place of their pixels."""
        if not any(isinstance(picture, Pixels) for picture in self.pictures):
            return self
        return dataclasses.replace(
            self,
            source=None if self.source is None else StoredPixels.of(self.source),
            references=tuple(map(StoredPixels.of, self.references)),
        )

    def alone(self, index: int) -> Self:
        """Return the request that makes only image `index` of this request."""
        return dataclasses.replace(self, seed=self.seed_of(index), count=1)


def _check_text(field_name: str, text: str, *, required: bool) -> None:
    if not isinstance(text, str):
        raise InvalidRequest(field_name, f"The {field_name} is {text!r}; use a text.")
    if required and not text.strip():
        raise InvalidRequest(field_name, f"The {field_name} is empty; say what you want to see.")
    if len(text) > PROMPT_LENGTH:
        raise InvalidRequest(
            field_name,
            f"The {field_name} has {len(text):,} characters; keep it to {PROMPT_LENGTH:,}.",
        )
    if "\x00" in text or not _is_unicode(text):
        raise InvalidRequest(
            field_name, f"The {field_name} holds a character that is none; type it again."
        )


def _check_reading(field_name: str, text: str | None, *, required: bool) -> None:
    """Check the text that the model reads: names of emoji are longer than emoji."""
    if text is None:
        return
    if len(text) > READ_LENGTH:
        raise InvalidRequest(
            field_name,
            f"The {field_name} is {len(text):,} characters long when its emoji are read by their "
            f"names; keep it to {READ_LENGTH:,}.",
        )
    # The text is checked in pieces, each as long as a person may type.
    starts = range(0, max(len(text), 1), PROMPT_LENGTH)
    pieces = [text[start : start + PROMPT_LENGTH] for start in starts]
    for piece in pieces:
        _check_text(field_name, piece, required=required and len(pieces) == 1)


def _check_name(field_name: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise InvalidRequest(
            field_name,
            f"There is no {field_name} {name!r}; choose one of {', '.join(names)}.",
        )


def _is_unicode(text: str) -> bool:
    """Return whether `text` can be encoded: half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_range(
    field_name: str, value: float, low: float, high: float, *, whole: bool = False
) -> None:
    kind = int if whole else (int, float)
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise InvalidRequest(
            field_name, f"For {field_name} use {what} from {low:,} to {high:,}, not {value!r}."
        )


def _check_references(references: tuple[Pixels | StoredPixels, ...]) -> None:
    if len(references) > REFERENCES_MAX:
        raise InvalidRequest(
            "references",
            f"There are {len(references)} reference pictures; use at most {REFERENCES_MAX}.",
        )
    for number, picture in enumerate(references, 1):
        size = f"Reference picture {number} is {picture.width}x{picture.height}"
        if min(picture.width, picture.height) < REFERENCE_SIDE_MIN:
            raise InvalidRequest(
                "references", f"{size}; both sides need at least {REFERENCE_SIDE_MIN} pixels."
            )
        if picture.width * picture.height > REFERENCE_AREA_MAX:
            raise InvalidRequest(
                "references", f"{size}; scale it to at most {REFERENCE_AREA_MAX:,} pixels in all."
            )


def _check_size(field_name: str, value: int) -> None:
    _check_range(field_name, value, SIZE_MIN, SIZE_MAX, whole=True)
    if value % SIZE_MULTIPLE:
        below = value - value % SIZE_MULTIPLE
        near = (n for n in (below, below + SIZE_MULTIPLE) if SIZE_MIN <= n <= SIZE_MAX)
        raise InvalidRequest(
            field_name,
            f"The {field_name} is {value}, which is not a multiple of {SIZE_MULTIPLE}; "
            f"use {' or '.join(map(str, near))}.",
        )
