"""A recipe: everything that one finished image depends on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Final, Self, TypeAlias, get_type_hints

from pydantic import ConfigDict, Field, GetPydanticSchema, ValidationError, create_model
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from .inversion import Inversion
from .lora import Lora
from .pixels import Pixels
from .request import SIZE_MAX, GenerationRequest, SchedulerName, Spacing

_NAMED: Final = 3
_THREADS_MAX: Final = 1_024
# A recipe is readable with the name of a scheduler that is gone; a request is not.
_AnyScheduler: TypeAlias = Annotated[SchedulerName, GetPydanticSchema(lambda _, ask: ask(str))]
_AnySpacing: TypeAlias = Annotated[Spacing, GetPydanticSchema(lambda _, ask: ask(str))]


class UsedLora(TypedDict):
    """A LoRA that a picture was made with: its name, its weight, and the hash of its file."""

    name: str
    weight: float
    sha256: str


class UsedInversion(TypedDict):
    """A textual inversion that a picture was made with: its name, and the hash of its file."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that one image depends on, and the hash of the pixels that came out.

    `read_prompt` and `read_negative_prompt` are as in the request. `unread_prompt` is the part of
    the prompt that the model did not read: text without a token, and the end that did not fit.
    `threads` is the number of threads that a CPU computed with, which decides the order of sums and
    so the last bits; None on other devices, and in recipes older than this field. `decoder_tile` is
    the edge in pixels of the decoder's tiles, if memory was short. `compiled` is True if the
    network was compiled, which also decides the last bits. `reference_sha256` holds the hashes of
    the references in their order; None without references, and in recipes older than this field.
    `loras` are the LoRAs in the order in which they were merged, and `inversions` the textual
    inversions, each with the hash of its file.
    `quantization` says how the weights were stored in fewer bits, as in `Q4_K` or `int8`; None for
    plain weights. `base_sha256` is the hash of the other parts of a model whose denoiser is a file
    of its own.
    """

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: _AnyScheduler
    scheduler_settings: Mapping[str, Any]
    model: str
    model_sha256: str
    dtype: str
    device: str
    source_sha256: str | None
    strength: float | None
    unread_prompt: str
    versions: Mapping[str, str]
    pixels_sha256: str
    threads: Annotated[int, Field(ge=1, le=_THREADS_MAX)] | None = None
    decoder_tile: Annotated[int, Field(ge=1, le=SIZE_MAX)] | None = None
    compiled: bool | None = None
    read_prompt: str | None = None
    read_negative_prompt: str | None = None
    reference_sha256: Sequence[str] | None = None
    quantization: str | None = None
    base_sha256: str | None = None
    spacing: _AnySpacing | None = None
    guidance_rescale: float | None = None
    loras: Sequence[UsedLora] | None = None
    inversions: Sequence[UsedInversion] | None = None

    def request(
        self, source: Pixels | None, references: Sequence[Pixels] = ()
    ) -> GenerationRequest:
        """Return the request that makes this image again.

        `source` has to be the picture with the hash `source_sha256`, or None if there is none.
        `references` have to be the pictures with the hashes `reference_sha256`.
        """
        return GenerationRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            width=self.width,
            height=self.height,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
            source=source,
            strength=self.strength,
            read_prompt=self.read_prompt,
            read_negative_prompt=self.read_negative_prompt,
            references=tuple(references),
            loras=tuple(Lora(**used) for used in self.loras or ()),
            inversions=tuple(Inversion(**used) for used in self.inversions or ()),
            spacing=self.spacing,
            guidance_rescale=self.guidance_rescale,
        )

    def to_json(self) -> str:
        """Return the recipe as one JSON object with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is no JSON object, or a field is missing, unknown, of a wrong type
                or out of range.
        """
        try:
            read = json.loads(text)
        except RecursionError as error:
            raise ValueError("the recipe is nested too deeply") from error
        if not isinstance(read, dict):
            raise ValueError("a recipe is a JSON object")
        try:
            _Values.model_validate(read)
        except ValidationError as error:
            raise ValueError(_explain(error.errors(include_url=False))) from error
        return cls(**read)


_kinds = get_type_hints(Recipe, include_extras=True)
_fields: dict[str, Any] = {
    field.name: (_kinds[field.name], ... if field.default is MISSING else field.default)
    for field in dataclasses.fields(Recipe)
}
# Strict, so that no value is converted: a recipe is written again exactly as it was read.
_Values: Final = create_model(
    "_Values",
    __config__=ConfigDict(strict=True, extra="forbid", protected_namespaces=()),
    **_fields,
)


def _explain(faults: Sequence[ErrorDetails]) -> str:
    """Return a sentence on the faults of a recipe: missing fields first, then unknown ones."""
    names: dict[str, list[str]] = {}
    for fault in faults:
        if not fault["loc"]:
            return "the recipe has a field whose name is no text"
        names.setdefault(fault["type"], []).append(str(fault["loc"][0]))
    if missing := names.get("missing"):
        return f"the recipe lacks {_some(missing)}"
    if unknown := names.get("extra_forbidden"):
        return f"the recipe has an unknown field {_some(unknown)}"
    for fault in faults:
        name = str(fault["loc"][0])
        if not fault["type"].endswith("than_equal"):
            return f"the recipe has a value of the wrong type in {name}"
    most = {"threads": _THREADS_MAX, "decoder_tile": SIZE_MAX}[name]
    return f"the recipe has {name.replace('_', ' ')} out of the range 1 to {most}"


def _some(names: Collection[str]) -> str:
    """Return a few of `names`, and how many more there are."""
    first, rest = sorted(names)[:_NAMED], len(names) - _NAMED
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """One finished image of a job; `index` counts from 0."""

    index: int
    pixels: Pixels
    recipe: Recipe
