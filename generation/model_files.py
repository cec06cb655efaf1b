"""Which files make a Stable Diffusion model, in a folder or in a repository of the hub.

The layout is the one of diffusers: `model_index.json` and one folder a part. Everything
here works on names relative to the model, so that a repository is judged before a byte
of it is downloaded and a folder by the same rules.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from .errors import ModelError

INDEX: Final = "model_index.json"
DEFAULTS: Final = "defaults.json"
EMOJI: Final = "emoji.json"
SCHEDULER_CONFIG: Final = "scheduler/scheduler_config.json"
PICKLES: Final = frozenset({".bin", ".ckpt", ".pkl", ".pt", ".pth"})

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
# The file names that transformers and diffusers save under, without the variant.
_STEMS: Final = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
# The plain weights come first: a half-precision copy beside them holds less.
_VARIANTS: Final = (None, "fp16")


@dataclass(frozen=True, slots=True)
class PartWeights:
    """The safetensors of one part: `names` relative to the model, `variant` as in `fp16`."""

    variant: str | None
    names: tuple[str, ...]


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
    """How much of the model `model` is here; `done` and `total` are bytes."""

    model: str
    done: int
    total: int
    files_done: int
    files: int

    @property
    def percent(self) -> int:
        """Return the share of the bytes that is here, 0 to 100."""
        return 100 * self.done // self.total if self.total else 100


def list_folder(folder: Path) -> frozenset[str]:
    """Return the names of the files in a model's folder and in the folders of its parts."""
    files = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())
    return frozenset(path.relative_to(folder).as_posix() for path in files)


def select_files(names: Collection[str], where: str) -> ModelFiles:
    """Choose from `names` what the model needs; `where` names it at the start of a sentence.

    Raises:
        ModelError: a part is missing, or its weights are only there as a pickle.
    """
    configs = select_configs(names, where)
    weights = {part: _part_weights(names, part, where) for part in _STEMS}
    return ModelFiles(configs, weights)


def select_configs(names: Collection[str], where: str) -> tuple[str, ...]:
    """Choose from `names` the configs and the tokenizer that a model needs.

    Raises:
        ModelError: one of them is missing.
    """
    _require(names, INDEX, where, "it is no model in the layout of diffusers")
    _require(names, SCHEDULER_CONFIG, where)
    for part in _STEMS:
        _require(names, f"{part}/config.json", where)
    parts = (f"{part}/config.json" for part in _STEMS)
    ours = (name for name in (DEFAULTS, EMOJI) if name in names)
    return (INDEX, SCHEDULER_CONFIG, *parts, *ours, *_tokenizer_files(names, where))


def _require(
    names: Collection[str], name: str, where: str, meaning: str = "the model is not complete"
) -> None:
    if name not in names:
        raise ModelError(
            f"{where} has no {name}, so {meaning}; download it again or choose another one."
        )


def _tokenizer_files(names: Collection[str], where: str) -> list[str]:
    found = [name for file in _TOKENIZER_FILES if (name := f"tokenizer/{file}") in names]
    whole = "tokenizer/tokenizer.json" in found
    split = {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= set(found)
    if not whole and not split:
        raise ModelError(
            f"{where} has no tokenizer/tokenizer.json and no tokenizer/vocab.json with "
            "tokenizer/merges.txt, so its tokenizer is not complete; download it again or "
            "choose another one."
        )
    return found


def _part_weights(names: Collection[str], part: str, where: str) -> PartWeights:
    for variant in _VARIANTS:
        if found := _variant_weights(names, part, variant, where):
            return PartWeights(variant, found)
    pickles = sorted(
        name
        for name in names
        if name.startswith(f"{part}/") and PurePosixPath(name).suffix.lower() in PICKLES
    )
    if pickles:
        raise ModelError(pickle_sentence(f"{where} has its {part} only as {pickles[0]}, which"))
    raise ModelError(
        f"{where} has no {part}/{_STEMS[part]}.safetensors, so its {part} is missing; download "
        "it again or choose another one."
    )


def _variant_weights(
    names: Collection[str], part: str, variant: str | None, where: str
) -> tuple[str, ...]:
    dotted = f".{variant}" if variant else ""
    stem = f"{part}/{_STEMS[part]}"
    whole = f"{stem}{dotted}.safetensors"
    if whole in names:
        return (whole,)
    index = f"{stem}.safetensors.index{dotted}.json"
    if index not in names:
        return ()
    shard = re.compile(rf"{re.escape(stem + dotted)}-\d+-of-(\d+)\.safetensors")
    found = sorted(name for name in names if shard.fullmatch(name))
    total = max((int(m[1]) for name in found if (m := shard.fullmatch(name))), default=0)
    if not found or len(found) != total:
        raise ModelError(
            f"{where} has {len(found)} of the {total or 'several'} files that {index} splits its "
            f"{part} into; download it again."
        )
    return (index, *found)


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
        ModelError: the file cannot be read or holds something else.
    """
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / name} cannot be read as JSON ({error}); download the model again."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / name} holds no JSON object; download the model again.")
    return config


def weights_sha256(folder: Path) -> str:
    """Return one SHA-256 over a model's weights, tokenizer and configs, as hex digits.

    It depends on the names and contents of the files that are loaded and on nothing else
    in the folder. A file that has not changed is read only once in a process.

    Raises:
        ModelError: the model is not complete or cannot be read.
    """
    files = select_files(list_folder(folder), f"The model in {folder}")
    return hashlib.sha256("".join(_digest_lines(folder, files)).encode()).hexdigest()


def _digest_lines(folder: Path, files: ModelFiles) -> Iterator[str]:
    for name in files.names:
        # How many steps a model asks for is no part of what a given recipe makes of it, and
        # neither is what stands there for an emoji that somebody typed.
        if name not in (DEFAULTS, EMOJI):
            yield f"{name}\0{file_sha256(folder / name)}\n"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits; an unchanged file is read only once.

    Raises:
        ModelError: the file cannot be read.
    """
    path = path.resolve()
    try:
        stat = path.stat()
        # One at a time: engines that start together would else read the same gigabytes.
        with _hashing:
            return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}); check that the file may be read."
        ) from error


_hashing = threading.Lock()


@lru_cache(maxsize=1_024)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    # The size and the time are there for the cache: a changed file is another entry.
    del size, modified_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
