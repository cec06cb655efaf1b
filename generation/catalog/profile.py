"""The configs of a model, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from ..errors import InvalidRequest, ModelError, any_of
from ..values.request import (
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    RESCALE_MAX,
    SIZE_MAX,
    SIZE_MIN,
    STEPS_MAX,
    STRENGTH_MAX,
    STRENGTH_MIN,
    SchedulerName,
)
from ..values.spelling import NAME_LENGTH
from .checkpoint import SingleFile
from .configs import Config, Configs
from .files import DEFAULTS, EMOJI, INDEX, list_folder, require_index, select_files
from .layout import Layout, shown
from .memory.denoiser import DenoiserFile
from .memory.savings import NO_SAVINGS, Savings

Half: TypeAlias = Literal["float16", "bfloat16"]
"""A type of 16 bits: one with more digits, or one with larger numbers."""

DEFAULT_STRENGTH: Final = 0.6
# Far above its own size a model is slow and its pictures are bad.
_NATIVE_TIMES: Final = 2
# There are about 4,000 emoji, of at most 10 characters.
_EMOJI_MOST: Final = 10_000
_EMOJI_LENGTH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the configs of a model say, as its family reads them.

    `native_size`, the edge of the model's pictures, and `size_multiple` are in pixels.
    `token_limit` is the number of tokens of a text, start and end included; a prompt fills at most
    the first `prompt_limit`, the others are padding. `prediction_type` is `epsilon`,
    `v_prediction` or `flow`. `schedulers` are those that fit. `is_guided` is False for a model that
    makes no unconditional prediction. `reads_guidance` is True for a network that is told the
    guidance scale, as that of a latent consistency model is. A model of neither kind ignores the
    scale. `most_references` is the number of pictures that a prompt may refer to.
    `inversion_widths` are the widths of the tokens of the text encoders that can read textual
    inversions, by the names of their parts.
    """

    native_size: int
    size_multiple: int
    token_limit: int
    prompt_limit: int
    prediction_type: str
    schedulers: tuple[SchedulerName, ...]
    default_scheduler: SchedulerName
    default_steps: int
    default_guidance_scale: float
    is_guided: bool = True
    reads_guidance: bool = False
    most_references: int = 0
    inversion_widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models that the engine can run.

    `name` is for people. `describe` reads the configs of a model, checks that the family's class
    can run the model, and raises ModelError if not. `load` imports and returns that class, which
    has the methods of `generation.models.family.Model`. `half` is the type of the weights on a GPU,
    if nobody chose one. `single_files` are the kinds of checkpoints in one file that are read.
    """

    name: str
    layout: Layout
    describe: Callable[[Configs], Description]
    load: Callable[[], Any]
    half: Half = "float16"
    single_files: tuple[SingleFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile(Description):
    """The properties of a model, read from its configs without loading its weights.

    `family` is the family's name for people. `pipeline` is the class in model_index.json that the
    model is made for. Pictures of more than `default_max_size` pixels in width or height are seldom
    good. `half` is the type of the weights on a GPU, if nobody chose one. `emoji` holds the names
    of the emoji that the model knows. `denoiser` is the file with the weights of the denoiser, if
    these are not in `folder`, and `autoencoder` that of another autoencoder. `savings` are the
    settings by which the model takes less memory.
    """

    name: str
    family: str
    pipeline: str
    folder: Path
    default_strength: float
    default_max_size: int
    default_guidance_rescale: float | None = None
    half: Half = "float16"
    scheduler_config: Mapping[str, Any] = field(repr=False)
    emoji: Mapping[str, str] = field(repr=False)
    denoiser: DenoiserFile | None = None
    savings: Savings = NO_SAVINGS
    autoencoder: Path | None = None

    @property
    def quantization(self) -> str | None:
        """Return how the weights are stored in fewer bits; None for plain weights."""
        of_file = None if self.denoiser is None else self.denoiser.quantization
        return " + ".join(filter(None, (of_file, self.savings.quantize))) or None

    @property
    def heeds_guidance(self) -> bool:
        """Return whether the guidance scale changes a picture."""
        return self.is_guided or self.reads_guidance

    @property
    def takes_inversions(self) -> bool:
        """Return whether the model can read textual inversions with the savings that it has."""
        is_plain = self.quantization is None and self.savings.offload == "none"
        return is_plain and bool(self.inversion_widths)

    def check_references(self, count: int, called: str | None = None) -> None:
        """Refuse more references than the model reads; `called` is another name for the model.

        Raises:
            InvalidRequest: `count` is above `most_references`.
        """
        if count <= self.most_references:
            return
        name = called or self.name
        if not self.most_references:
            raise InvalidRequest(
                "references",
                f"The model {name} cannot edit by instruction; use a model that can, or a "
                "picture to start from, with a strength.",
            )
        raise InvalidRequest(
            "references",
            f"The model {name} reads at most {self.most_references} reference pictures; you "
            f"gave {count}.",
        )


def profile(
    folder: Path,
    name: str,
    families: Collection[Family],
    *,
    prediction_type: str | None = None,
) -> ModelProfile:
    """Return the profile of the model in `folder`, after checking that the model can be used.

    The model has to belong to one of `families`. `prediction_type` overrules the model's own.

    Raises:
        ModelError: the folder holds no complete model of these families with safetensors.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}; check the spelling of the model.")
    names = list_folder(folder)
    require_index(names, f"The model in {folder}")
    layout = recognise(folder, families).layout
    select_files(names, layout, f"The model in {folder}")
    return read_configs(folder, name, families, prediction_type)


def recognise(folder: Path, families: Collection[Family]) -> Family:
    """Return the family of the model in `folder`, of which only `model_index.json` is read.

    Its layout has only those optional parts that the model has.

    Raises:
        ModelError: the file cannot be read, or names none of `families` or other parts.
    """
    index = Config(folder, INDEX).values
    kind = index.get("_class_name")
    family = family_for(kind, families)
    if family is None:
        raise ModelError(
            f"The model in {folder} is made for {shown(kind) or 'an unnamed pipeline'}, which this "
            f"engine cannot run; choose a model of {any_of([family.name for family in families])}."
        )
    family.layout.check_index(folder, index, family.name)
    return replace(family, layout=family.layout.of(index))


def family_for(pipeline: object, families: Iterable[Family]) -> Family | None:
    """Return the family whose models say `pipeline` in `_class_name`, if there is one."""
    claims = (family for family in families if pipeline in family.layout.pipelines)
    return next(claims, None) if isinstance(pipeline, str) else None


def read_configs(
    folder: Path, name: str, families: Collection[Family], prediction_type: str | None
) -> ModelProfile:
    """Do the same as `profile` for a folder whose weights may still be missing."""
    family = recognise(folder, families)
    index = Config(folder, INDEX).values
    configs = Configs(folder, prediction_type)
    found = family.describe(configs)
    facts = {key.name: getattr(found, key.name) for key in fields(found)}
    return ModelProfile(
        name=name,
        family=family.name,
        pipeline=str(index["_class_name"]),
        folder=folder,
        half=family.half,
        scheduler_config=configs.scheduler.values,
        emoji=_emoji(folder),
        **{**facts, **_defaults(folder, found)},
    )


def _defaults(folder: Path, found: Description) -> dict[str, Any]:
    """Return the defaults for the model's pictures, by the names in `ModelProfile`."""
    max_size = _NATIVE_TIMES * found.native_size
    if not (folder / DEFAULTS).is_file():
        return {"default_strength": DEFAULT_STRENGTH, "default_max_size": max_size}
    config = Config(folder, DEFAULTS)
    max_size = config.size("max_size", max_size)
    if "max_size" in config.values and not SIZE_MIN <= max_size <= SIZE_MAX:
        raise config.wrong("max_size", f"a whole number from {SIZE_MIN} to {SIZE_MAX}")
    steps = config.size("steps", found.default_steps)
    if steps > STEPS_MAX:
        raise config.wrong("steps", f"a whole number from 1 to {STEPS_MAX}")
    rescale = config.number("guidance_rescale", 0.0, 0.0, RESCALE_MAX)
    return {
        "default_steps": steps,
        "default_guidance_scale": config.number(
            "guidance_scale", found.default_guidance_scale, GUIDANCE_MIN, GUIDANCE_MAX
        ),
        "default_guidance_rescale": rescale or None,
        "default_strength": config.number("strength", DEFAULT_STRENGTH, STRENGTH_MIN, STRENGTH_MAX),
        "default_max_size": max_size,
    }


def _emoji(folder: Path) -> Mapping[str, str]:
    if not (folder / EMOJI).is_file():
        return {}
    config = Config(folder, EMOJI)
    if len(config.values) > _EMOJI_MOST:
        raise ModelError(
            f"{config.path} names {len(config.values):,} emoji, and {_EMOJI_MOST:,} are the most "
            "that are read; remove some, or the file."
        )
    for emoji, name in config.values.items():
        if emoji.isascii() or len(emoji) > _EMOJI_LENGTH or not isinstance(name, str):
            raise config.wrong(emoji, "the name of an emoji")
        if len(name) > NAME_LENGTH:
            raise config.wrong(emoji, f"a name of at most {NAME_LENGTH} characters")
    return config.values
