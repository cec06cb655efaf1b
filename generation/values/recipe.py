"""A recipe: everything that one finished image depends on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

from pydantic import ConfigDict, Field, GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .pixels import Pixels
from .request import SIZE_MAX, GenerationRequest, SchedulerName

_NAMED: Final = 3
_THREADS_MAX: Final = 1_024
_NO_OBJECT: Final = "a recipe is a JSON object"
# A recipe is readable with the name of a scheduler that is gone; a request is not.
_AnyScheduler: TypeAlias = Annotated[SchedulerName, GetPydanticSchema(lambda _, ask: ask(str))]
# A whole number stays one, so that the recipe is written again as it was.
_Number: TypeAlias = Annotated[float, GetPydanticSchema(lambda _, ask: ask(int | float))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that one image depends on, and the hash of the pixels that came out.

    `read_prompt` and `read_negative_prompt` are as in the request. `unread_prompt` is what the
    model did not read: what its tokenizer does not know, and the end without tokens. `threads`
    is how many threads a CPU computed with, which decides the order of its sums and so the
    last bits; None on other devices, and in recipes older than this field. `decoder_tile` is
    the edge in pixels of the tiles in which the picture was decoded where memory was short.
    `compiled` is True where the UNet was compiled, which also decides the last bits.
    """

    # pydantic converts nothing and refuses unknown fields.
    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: _Number
    scheduler: _AnyScheduler
    scheduler_settings: Mapping[str, Any]
    model: str
    model_sha256: str
    dtype: str
    device: str
    source_sha256: str | None
    strength: _Number | None
    unread_prompt: str
    versions: Mapping[str, str]
    pixels_sha256: str
    threads: Annotated[int, Field(ge=1, le=_THREADS_MAX)] | None = None
    decoder_tile: Annotated[int, Field(ge=1, le=SIZE_MAX)] | None = None
    compiled: bool | None = None
    read_prompt: str | None = None
    read_negative_prompt: str | None = None

    def request(self, source: Pixels | None) -> GenerationRequest:
        """Return the request that makes this one image again.

        `source` has to be the image with the hash `source_sha256`, or None without one.
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
            return _adapter.validate_json(text)
        except ValidationError as error:
            raise ValueError(_explain(error.errors(include_url=False))) from error


_adapter: Final[TypeAdapter[Any]] = TypeAdapter(Recipe)


def _explain(faults: Sequence[ErrorDetails]) -> str:
    """Return a sentence on what is wrong with a recipe: the most telling of the faults."""
    names: dict[str, list[str]] = {}
    for fault in faults:
        if not fault["loc"]:
            no_json = fault["type"] == "json_invalid"
            return f"the recipe is no JSON ({fault['ctx']['error']})" if no_json else _NO_OBJECT
        names.setdefault(fault["type"], []).append(str(fault["loc"][0]))
    if missing := names.get("missing"):
        return f"the recipe lacks {_some(missing)}"
    if unknown := names.get("unexpected_keyword_argument"):
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
