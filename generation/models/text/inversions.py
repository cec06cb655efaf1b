"""Textual inversions: read from files, and added to CLIP's tokenizer and text encoder.

The paper: Gal et al. 2022, https://arxiv.org/abs/2208.01618.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken
from torch import nn

from ...catalog.addons.loras import without_folder
from ...catalog.headers import Header, read_header
from ...errors import LoraError, ModelError, first_sentence
from ..adapters.grafting import with_layers
from .inversion_files import tensors_by_part

_VECTORS_MOST: Final = 75
_MATRIX: Final = 2
# What transformers takes for a config from before it knew the token that ends a text.
_WRONG_END: Final = 2


def read_inversion(
    path: Path, name: str, widths: Mapping[str, int], model: str
) -> dict[str, torch.Tensor]:
    """Return the vectors [vectors, width] of a file for each text encoder of a model.

    It reads what A1111 writes (`emb_params`), what diffusers writes (one tensor, named like the
    word), and files for Stable Diffusion XL (`clip_l` and `clip_g`). `widths` are those of the
    encoders by the names of their parts.

    Raises:
        LoraError: the file is broken, holds no vectors, or those of another kind of model.
    """
    if not widths:
        raise LoraError(f"Embeddings cannot be used with the model {model}; leave {name} out.")
    header = _header(path)
    keys = tensors_by_part(header, widths)
    if keys is None:
        raise LoraError(
            f"The file {name} holds no embedding for a model like {model}; choose one that was "
            "made for this kind of model."
        )
    for key in keys.values():
        shape = header.tensors[key].shape
        count = shape[0] if len(shape) == _MATRIX else 1
        if not 1 <= count <= _VECTORS_MOST:
            raise LoraError(
                f"The embedding {name} has {count:,} vectors; use one of 1 to {_VECTORS_MOST}."
            )
    return _vectors(path, name, keys)


def _header(path: Path) -> Header:
    try:
        return read_header(path, what="the embedding")
    except ModelError as error:
        raise without_folder(error, path) from error


def _vectors(path: Path, name: str, keys: Mapping[str, str]) -> dict[str, torch.Tensor]:
    vectors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for part, key in keys.items():
                tensor: torch.Tensor = opened.get_tensor(key).float().clone()
                vectors[part] = tensor.reshape(-1, tensor.shape[-1])
    except (SafetensorError, OSError) as error:
        raise LoraError(
            f"The embedding {name} cannot be read ({first_sentence(error)}); download it again."
        ) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in vectors.values()):
        raise LoraError(
            f"The embedding {name} has numbers that are not finite, so every picture would be "
            "broken; choose another copy."
        )
    return vectors


def words(number: int, count: int) -> str:
    """Return the text that stands for the `count` vectors of inversion `number`."""
    return "".join(f"<|inversion-{number}-{vector}|>" for vector in range(count))


def extended(tokenizer: Any, encoder: Any, vectors: Sequence[torch.Tensor]) -> tuple[Any, Any]:
    """Return copies of a tokenizer and a text encoder that know vectors [vectors, width] too.

    Each inversion is a text of `words`. The encoder shares everything but the table of tokens.
    """
    known = copy.deepcopy(tokenizer)
    for number, own in enumerate(vectors):
        for vector in range(len(own)):
            word = f"<|inversion-{number}-{vector}|>"
            known.add_tokens([AddedToken(word, normalized=False)])
    table = encoder.get_input_embeddings()
    rows = [table.weight, *(own.to(table.weight) for own in vectors)]
    with torch.device("meta"):
        wider = nn.Embedding(sum(map(len, rows)), table.weight.shape[1])
    wider.weight = nn.Parameter(torch.cat(rows), requires_grad=False)
    _check_ids(known, len(table.weight))
    name = next(name for name, module in encoder.named_modules() if module is table)
    other = with_layers(encoder, {name: wider})
    for module in other.modules():
        # Such an encoder would take the largest number of a token for the end of the text. The
        # modules on the way to the table are copies, and the first of them says it.
        if getattr(module, "eos_token_id", None) == _WRONG_END:
            module.eos_token_id = tokenizer.eos_token_id
    return known, other


def _check_ids(tokenizer: Any, first: int) -> None:
    """Check that the first added token is the first added row of the table.

    Raises:
        LoraError: the table has rows for tokens that the tokenizer does not have, or too few.
    """
    if tokenizer.convert_tokens_to_ids("<|inversion-0-0|>") != first:
        raise LoraError(
            "The tokenizer and the text encoder of this model have different numbers of tokens, so "
            "embeddings cannot be used with it; leave them out."
        )
