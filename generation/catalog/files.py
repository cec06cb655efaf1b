"""Which files make a model of a family, in a folder or in a repository of the hub.

The layout is that of diffusers: `model_index.json` and one folder for each part. All functions work
on names relative to the model, so the same rules judge a folder, and a repository before a byte is
downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ..errors import ModelError
from .json_reader import CONFIG_BYTES, LIST_BYTES, read_object
from .layout import Layout

INDEX: Final = "model_index.json"
DEFAULTS: Final = "defaults.json"
EMOJI: Final = "emoji.json"
SCHEDULER_CONFIG: Final = "scheduler/scheduler_config.json"
# The two suffixes that people give safetensors files.
SAFETENSORS: Final = frozenset({".safetensors", ".sft"})
PICKLES: Final = frozenset({".bin", ".ckpt", ".pkl", ".pt", ".pth"})

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
# The plain weights come first: a copy in half precision holds less. Then comes any other variant,
# and last the weights that were not averaged over the training.
_VARIANTS: Final = (None, "fp16", "fp32", "bf16", "ema")
_LAST_VARIANT: Final = "non_ema"
# Only these files are read; other files in the folder do not matter.
_SUFFIXES: Final = frozenset({".json", ".safetensors", ".txt"})
_VARIANT: Final = r"[A-Za-z0-9_]{1,32}"
# These hold long lists, so they are larger than configs.
_LONG_FILES: Final = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})


@dataclass(frozen=True, slots=True)
class PartWeights:
    """The weights of one part: a file, or an index and several files. All names are relative.

    `variant` is a word in the names, such as `fp16`.
    """

    variant: str | None
    names: tuple[str, ...]

    @property
    def index(self) -> str | None:
        """Return the index, which says which tensor is in which file."""
        return self.names[0] if self.names[0].endswith(".json") else None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Return the files with tensors, which are all safetensors."""
        return self.names[1:] if self.index else self.names


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files that a model's pictures depend on; every name is relative to the model."""

    configs: tuple[str, ...]
    weights: Mapping[str, PartWeights]

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        shards = (name for part in self.weights.values() for name in part.names)
        return tuple(sorted({*self.configs, *shards}))


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadProgress:
    """How much of a model is downloaded; `done` and `total` are bytes."""

    model: str
    done: int
    total: int
    files_done: int
    files: int

    @property
    def percent(self) -> int:
        """Return the share of the bytes that is downloaded, 0 to 100."""
        return 100 * self.done // self.total if self.total else 100


def list_folder(folder: Path) -> frozenset[str]:
    """Return the names of the files in a model's folder and in the folders of its parts.

    Raises:
        ModelError: the folder cannot be read, or a file that may belong to the model is a link that
            leads out of the folder. Only the hub's cache may have such links: it stores the files
            of all versions in one place.
    """
    home = _home(folder)
    paths = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    try:
        files = [path for path in paths if path.is_file()]
    except OSError as error:
        raise ModelError(
            f"The model in {folder} cannot be read ({error.strerror}); let the bot's user read the "
            "folder and what is in it."
        ) from error
    for path in files:
        if path.suffix in _SUFFIXES and not path.resolve().is_relative_to(home):
            raise ModelError(
                f"The model in {folder} has {path.relative_to(folder)} as a link that leads out of "
                "the folder, so it is refused; put the file itself there."
            )
    return frozenset(path.relative_to(folder).as_posix() for path in files)


def _home(folder: Path) -> Path:
    """Return the folder in which all files of the model in `folder` have to lie."""
    whole = folder.resolve()
    store = whole.parent.parent
    in_cache = whole.parent.name == "snapshots" and (store / "blobs").is_dir()
    return store if in_cache else whole


def select_files(names: Collection[str], layout: Layout, where: str) -> ModelFiles:
    """Choose from `names` what a model needs; `where` names it at the start of a sentence.

    Raises:
        ModelError: a part is missing, or its weights are only there as a pickle.
    """
    configs = select_configs(names, layout, where)
    weights = {
        name: _part_weights(names, name, part.stem, where)
        for name, part in layout.networks.items()
        if not part.is_config_only
    }
    return ModelFiles(configs, weights)


def select_configs(names: Collection[str], layout: Layout, where: str) -> tuple[str, ...]:
    """Choose from `names` the configs and the tokenizers that a model needs.

    Raises:
        ModelError: one of them is missing.
    """
    require_index(names, where)
    _require(names, SCHEDULER_CONFIG, where)
    parts = [f"{part}/config.json" for part in layout.networks]
    for name in parts:
        _require(names, name, where)
    ours = (name for name in (DEFAULTS, EMOJI) if name in names)
    tokens = (file for part in layout.tokenizers for file in _tokenizer_files(names, part, where))
    return (INDEX, SCHEDULER_CONFIG, *parts, *ours, *tokens)


def require_index(names: Collection[str], where: str) -> None:
    """Check that there is the file by which the family of a model is recognised.

    Raises:
        ModelError: the file is missing.
    """
    _require(names, INDEX, where, "it is no model in the layout of diffusers")


def _require(
    names: Collection[str], name: str, where: str, meaning: str = "the model is not complete"
) -> None:
    if name not in names:
        raise ModelError(
            f"{where} has no {name}, so {meaning}; download it again or choose another one."
        )


def _tokenizer_files(names: Collection[str], part: str, where: str) -> list[str]:
    found = [name for file in _TOKENIZER_FILES if (name := f"{part}/{file}") in names]
    whole = f"{part}/tokenizer.json" in found
    split = {f"{part}/vocab.json", f"{part}/merges.txt"} <= set(found)
    if not whole and not split:
        raise ModelError(
            f"{where} has no {part}/tokenizer.json and no {part}/vocab.json with "
            f"{part}/merges.txt, so its tokenizer is not complete; download it again or "
            "choose another one."
        )
    return found


def _part_weights(names: Collection[str], part: str, stem: str, where: str) -> PartWeights:
    for variant in _variants(names, f"{part}/{stem}"):
        if found := _variant_weights(names, part, stem, variant, where):
            return PartWeights(variant, found)
    pickles = sorted(
        name
        for name in names
        if name.startswith(f"{part}/") and PurePosixPath(name).suffix.lower() in PICKLES
    )
    if pickles:
        raise ModelError(pickle_sentence(f"{where} has its {part} only as {pickles[0]}, which"))
    raise ModelError(
        f"{where} has no {part}/{stem}.safetensors, so its {part} is missing; download "
        "it again or choose another one."
    )


def _variants(names: Collection[str], path: str) -> Iterator[str | None]:
    """Yield the variants of the weights at `path` that may be among `names`, the best first."""
    yield from _VARIANTS
    stem = re.escape(path)
    pattern = re.compile(rf"{stem}[.](?P<variant>{_VARIANT})[.]safetensors(?:[.]index[.]json)?")
    index = re.compile(rf"{stem}[.]safetensors[.]index[.](?P<variant>{_VARIANT})[.]json")
    matches = (pattern.fullmatch(name) or index.fullmatch(name) for name in names)
    others = {match["variant"] for match in matches if match} - {*_VARIANTS}
    yield from sorted(others, key=lambda variant: (variant == _LAST_VARIANT, variant))


def _variant_weights(
    names: Collection[str], part: str, stem: str, variant: str | None, where: str
) -> tuple[str, ...]:
    stem = f"{part}/{stem}"
    dotted = f".{variant}" if variant else ""
    whole = f"{stem}{dotted}.safetensors"
    if whole in names:
        return (whole,)
    indexes = (f"{stem}.safetensors.index{dotted}.json", f"{stem}{dotted}.safetensors.index.json")
    index = next((index for index in indexes if index in names), None)
    if index is None:
        return ()
    number = r"-\d{1,6}-of-(\d{1,6})"
    # Older versions of diffusers wrote the variant after the number.
    ways = {
        f"{re.escape(stem + dotted)}{number}[.]safetensors",
        f"{re.escape(stem)}{number}{re.escape(dotted)}[.]safetensors",
    }
    counted = [_shards(names, re.compile(way)) for way in sorted(ways)]
    found, total = max(counted, key=lambda shards: len(shards[0]))
    if not found or len(found) != total:
        raise ModelError(
            f"{where} has {len(found)} of the {total or 'several'} files that {index} splits its "
            f"{part} into; download it again."
        )
    return (index, *found)


def _shards(names: Collection[str], way: re.Pattern[str]) -> tuple[list[str], int]:
    """Return the names that are shards, and how many shards there should be."""
    found = sorted(name for name in names if way.fullmatch(name))
    totals = (int(match[1]) for name in found if (match := way.fullmatch(name)))
    return found, max(totals, default=0)


def pickle_sentence(subject: str) -> str:
    """Return why a pickle is refused, as a sentence that starts with `subject`."""
    return (
        f"{subject} is a pickle: loading one can run code that somebody hid in it, so it is "
        "refused; choose a model with .safetensors weights, or convert this one with "
        "https://huggingface.co/spaces/safetensors/convert."
    )


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in the file `name` of a model's folder.

    Raises:
        ModelError: the file cannot be read, exceeds a bound, or holds no JSON object.
    """
    is_long = PurePosixPath(name).name in _LONG_FILES or ".index." in name
    return read_object(folder / name, most=LIST_BYTES if is_long else CONFIG_BYTES)
