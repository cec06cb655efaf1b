"""The parts of which the models of a family consist, in the layout of diffusers.

The families themselves are listed in `generation.models.families`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError

# What diffusers calls the part that denoises.
_DENOISERS: Final = ("transformer", "unet")
# The file names that the two libraries save weights under.
_STEMS: Final = {"transformers": "model", "diffusers": "diffusion_pytorch_model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a model: a folder, and an entry in `model_index.json`.

    `classes` holds the classes of `library` that the part may have. A part with `has_weights` is a
    network; a tokenizer has none. A model may lack a part that `is_optional`. The weights of a part
    that `is_config_only` are not in the model's folder.
    """

    library: str
    classes: frozenset[str]
    has_weights: bool = True
    is_optional: bool = False
    is_config_only: bool = False

    @property
    def stem(self) -> str:
        """Return the file name of the weights, without variant and suffix."""
        return _STEMS[self.library]


def network(library: str, *classes: str, is_optional: bool = False) -> Part:
    """Return a part with weights, made by a class of `library`."""
    return Part(library=library, classes=frozenset(classes), is_optional=is_optional)


def tokenizer(*classes: str, is_optional: bool = False) -> Part:
    """Return a part that turns text into tokens, made by a class of transformers."""
    return Part(
        library="transformers",
        classes=frozenset(classes),
        has_weights=False,
        is_optional=is_optional,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The parts of the models of one family, by the names of their folders.

    `pipelines` are the names in `_class_name` of `model_index.json` by which the family is
    recognised. Each model has a scheduler too, of any class of diffusers. A model that sets one of
    the keys of `refused` in `model_index.json` is what the value says, and cannot be used. Of the
    optional parts in `pairs` a model has both or neither.
    """

    pipelines: frozenset[str]
    parts: Mapping[str, Part]
    refused: Mapping[str, str] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def networks(self) -> Mapping[str, Part]:
        """Return the parts with weights."""
        return {name: part for name, part in self.parts.items() if part.has_weights}

    @property
    def tokenizers(self) -> Mapping[str, Part]:
        """Return the parts that turn text into tokens."""
        return {name: part for name, part in self.parts.items() if not part.has_weights}

    @property
    def denoiser(self) -> str:
        """Return the part that denoises."""
        return next(name for name in _DENOISERS if name in self.parts)

    def without_denoiser(self) -> Layout:
        """Return the layout of a folder whose denoiser needs no weights, only its config."""
        name = self.denoiser
        part = replace(self.parts[name], is_config_only=True)
        return replace(self, parts={**self.parts, name: part})

    def of(self, index: Mapping[str, Any]) -> Layout:
        """Return the layout without the optional parts that `model_index.json` does not name."""
        kept = {
            name: part
            for name, part in self.parts.items()
            if not part.is_optional or names_part(index, name)
        }
        return replace(self, parts=kept)

    def check_index(self, folder: Path, index: Mapping[str, Any], family: str) -> None:
        """Compare the entries of `model_index.json` with the parts of the family.

        Raises:
            ModelError: the model is of a kind that is refused, or a part is missing, of another
                class, or of another library.
        """
        for key, kind in self.refused.items():
            if index.get(key):
                raise ModelError(f"The model in {folder} is {kind}; choose a plain {family} model.")
        for pair in self.pairs:
            named = [part for part in pair if names_part(index, part)]
            if len(named) == 1:
                [missing] = {*pair} - {*named}
                raise ModelError(
                    f"The model in {folder} has its {named[0]} without the {missing}; choose a "
                    f"plain {family} model."
                )
        scheduler = Part(library="diffusers", classes=frozenset(), has_weights=False)
        for name, part in {**self.parts, "scheduler": scheduler}.items():
            library, found = _entry(index, name)
            if found is None and (part.is_optional or not part.classes):
                continue
            if part.classes and found not in part.classes:
                raise ModelError(
                    f"The model in {folder} has {shown(found) or 'nothing'} as its {name} instead "
                    f"of {min(part.classes)}; choose a plain {family} model."
                )
            if library != part.library:
                raise ModelError(
                    f"The model in {folder} takes its {name} from {shown(library) or 'nowhere'} "
                    f"instead of {part.library}; choose a plain {family} model."
                )


def names_part(index: Mapping[str, Any], part: str) -> bool:
    """Return whether `model_index.json` names a class for a part."""
    return _entry(index, part)[1] is not None


def _entry(index: Mapping[str, Any], part: str) -> tuple[str | None, str | None]:
    """Return the library and the class of a part, from `model_index.json`."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2:  # noqa: PLR2004 - a library and a class
        return None, None
    library, found = (str(item) if item else None for item in entry)
    return library, found


def shown(value: object) -> str:
    """Return a value from a file, short enough for a sentence; an empty text for None."""
    return str(value)[:80] if value else ""
