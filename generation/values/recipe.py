"""A recipe: everything that one finished image depends on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from .pixels import Pixels
from .request import SIZE_MAX, GenerationRequest, SchedulerName

_NAMED: Final = 3
_THREADS_MAX: Final = 1_024
# What each type of a recipe's field may be in JSON.
_JSON_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "bool | None": (bool, type(None)),
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "SchedulerName": (str,),
    "Mapping[str, Any]": (dict,),
    "Mapping[str, str]": (dict,),
}


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

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: SchedulerName
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
    threads: int | None = None
    decoder_tile: int | None = None
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
            ValueError: it is no JSON object, or a field is missing, unknown or of a wrong type.
        """
        try:
            read = json.loads(text)
        except RecursionError as error:
            raise ValueError("the recipe is nested too deeply") from error
        if not isinstance(read, dict):
            raise ValueError("a recipe is a JSON object")
        kinds = {f.name: _JSON_KINDS[str(f.type)] for f in dataclasses.fields(cls)}
        optional = {f.name for f in dataclasses.fields(cls) if f.default is None}
        values: dict[str, Any] = dict.fromkeys(optional) | read
        if missing := kinds.keys() - values.keys():
            raise ValueError(f"the recipe lacks {_some(missing)}")
        if unknown := values.keys() - kinds.keys():
            raise ValueError(f"the recipe has an unknown field {_some(unknown)}")
        for name, kind in kinds.items():
            is_misplaced = isinstance(values[name], bool) and bool not in kind
            if not isinstance(values[name], kind) or is_misplaced:
                raise ValueError(f"the recipe has a value of the wrong type in {name}")
        if not all(isinstance(version, str) for version in values["versions"].values()):
            raise ValueError("the recipe has a value of the wrong type in versions")
        if values["threads"] is not None and not 1 <= values["threads"] <= _THREADS_MAX:
            raise ValueError(f"the recipe has threads out of the range 1 to {_THREADS_MAX}")
        if values["decoder_tile"] is not None and not 1 <= values["decoder_tile"] <= SIZE_MAX:
            raise ValueError(f"the recipe has a decoder tile out of the range 1 to {SIZE_MAX}")
        return cls(**values)


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
