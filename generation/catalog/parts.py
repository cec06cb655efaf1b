"""Where the tensors of a model's part lie, by their current names, read from headers alone."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ModelError
from .files import PartWeights, read_config
from .headers import TensorInfo, read_header

_WEIGHT: Final = ".weight"
# The scale of an fp8 weight: ComfyUI's names, the older one first.
_SCALES: Final = (".scale_weight", ".weight_scale")
# An engine that computes in 16 or 32 bits does not use these.
_UNUSED: Final = re.compile(r"(?:.*[.])?(?:position_ids|scaled_fp8|scale_input|input_scale)")
# Older names: the module of CLIP until transformers 5, the VAE's attention until diffusers 0.15. A
# language model is stored with the head for words, beside which the layers are the module `model`.
_TEXT_PREFIX: Final = re.compile(r"(?:text_)?model[.]")
_ATTENTION: Final = re.compile(r"(.*[.]attentions[.]\d+[.])(query|key|value|proj_attn)([.]\w+)")
_ATTENTION_NAMES: Final = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in a file, and the tensor beside it that its values are multiplied with."""

    file: Path
    name: str
    info: TensorInfo
    scale: str | None = None


def find_tensors(folder: Path, weights: PartWeights, known: Container[str]) -> dict[str, Place]:
    """Return where each tensor of a part lies, by the name that the network uses.

    `known` are the names of the network's tensors. A name that is not known is taken for an older
    one, if it was that of a known name.

    Raises:
        ModelError: a file is broken, the index of several files names another one, or a tensor
            is there twice.
    """
    listed = _listed(folder, weights)
    found: dict[str, Place] = {}
    for file in weights.tensors:
        for name, place in file_tensors(folder / file).items():
            if listed is not None and listed.get(place.name) != Path(file).name:
                raise _unlisted(folder, weights, place.name, file)
            _add(found, modern_name(name, known), place)
    if listed is not None and (gone := listed.keys() - _names(folder, weights)):
        raise ModelError(
            f"{folder / str(weights.index)} lists the tensor {min(gone)[:120]!r}, which is in none "
            "of its files; download the model again."
        )
    return found


def file_tensors(file: Path) -> dict[str, Place]:
    """Return where the tensors of one file lie, each with its scale, without unused tensors.

    Raises:
        ModelError: the file is broken.
    """
    tensors = read_header(file).tensors
    places: dict[str, Place] = {}
    for name, info in tensors.items():
        if not _UNUSED.fullmatch(name) and not name.endswith(_SCALES):
            places[name] = Place(file, name, info, _scale(file, name, tensors))
    return places


def _scale(file: Path, name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    if not name.endswith(_WEIGHT):
        return None
    stem = name.removesuffix(_WEIGHT)
    scale = next((stem + end for end in _SCALES if stem + end in tensors), None)
    if scale is None:
        return None
    rows = tensors[name].shape[:1]
    # There is one scale for the tensor, or one for each row.
    if tensors[scale].shape not in {(), (1,), rows, (*rows, 1)}:
        raise ModelError(
            f"{file} has the scale {scale[:120]!r} of the shape {list(tensors[scale].shape)}, "
            "which is not supported; choose a copy of the model in float16 or bfloat16."
        )
    return scale


def modern_name(name: str, known: Container[str]) -> str:
    """Return the name that a network with the names `known` uses today for a tensor."""
    if name in known:
        return name
    modern = name
    if _TEXT_PREFIX.match(name):
        modern = _TEXT_PREFIX.sub("", name, count=1)
    elif match := _ATTENTION.fullmatch(name):
        modern = match[1] + _ATTENTION_NAMES[match[2]] + match[3]
    return modern if modern in known else name


def _add(found: dict[str, Place], name: str, place: Place) -> None:
    if name in found:
        raise ModelError(
            f"{place.file} has the tensor {place.name[:120]!r} a second time; download the model "
            "again or choose another one."
        )
    found[name] = place


def _listed(folder: Path, weights: PartWeights) -> Mapping[str, str] | None:
    """Return the file of each tensor from the index, or None if there is a single file.

    Raises:
        ModelError: the index names a file that does not belong to the index.
    """
    if weights.index is None:
        return None
    path = folder / weights.index
    listed = read_config(folder, weights.index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
        raise ModelError(f"{path} has no weight_map of names; download the model again.")
    shards = {Path(name).name for name in weights.tensors}
    if others := sorted({*listed.values()} - shards):
        raise ModelError(
            f"{path} names the file {others[0][:120]!r}, which is none of the .safetensors that it "
            "splits the weights into, so it is refused; download the model again."
        )
    return listed


def _names(folder: Path, weights: PartWeights) -> Iterator[str]:
    for file in weights.tensors:
        yield from read_header(folder / file).tensors


def _unlisted(folder: Path, weights: PartWeights, name: str, file: str) -> ModelError:
    return ModelError(
        f"{folder / file} holds the tensor {name[:120]!r}, which {weights.index} does not look for "
        "there; download the model again."
    )
