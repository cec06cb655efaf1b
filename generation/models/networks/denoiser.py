"""A denoiser from a file that holds nothing else: GGUF, or .safetensors in ComfyUI's layout.

The names of the tensors are converted, and the quantised matrices computed, by diffusers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import nn

from ...catalog.memory.denoiser import DenoiserFile
from ...catalog.memory.gguf import ARCHITECTURE, read_gguf_header
from ...catalog.parts import file_tensors
from ...catalog.tensors import check_finite, read_tensors
from ...errors import ModelError, first_sentence
from .quantized import dequantized, is_quantized

Tensors = dict[str, torch.Tensor]

# ComfyUI's files have this in front of each name or not; only the converter of the UNet wants it.
_PREFIX: Final = "model.diffusion_model."
_UNET: Final = "UNet2DConditionModel"
_CLASS: Final = "_class_name"


def load_denoiser(
    denoiser: DenoiserFile,
    make: Callable[[], Any],
    shapes: Mapping[str, torch.Size],
    config: Mapping[str, Any],
    dtype: torch.dtype,
) -> Any:
    """Return the network that `make` makes, with the weights in a file.

    `shapes` are those of the network's tensors, and `config` is the network's config. Matrices of
    linear layers stay quantised, and are computed in `dtype`. All other tensors are of that type.

    Raises:
        ModelError: the file is broken or holds another network, or a library is missing.
    """
    file = denoiser.path
    tensors = _gguf_tensors(file) if denoiser.is_gguf else _plain_tensors(file, dtype)
    tensors = _converted(tensors, shapes, config, denoiser)
    _check_fit(tensors, shapes, str(config.get(_CLASS)), denoiser)
    with init_empty_weights(include_buffers=False):
        network = make()
    plain: Tensors = {}
    for name, tensor in tensors.items():
        if _stays_quantized(network, name, tensor):
            _set_quantized(network, name.removesuffix(".weight"), tensor, dtype)
        else:
            plain[name] = _plain(tensor, shapes[name], dtype, file, name)
    network.load_state_dict(plain, assign=True, strict=False)
    return network.eval().requires_grad_(False)


def _plain_tensors(file: Path, dtype: torch.dtype) -> Tensors:
    places = file_tensors(file)
    shapes = {name: torch.Size(place.info.shape) for name, place in places.items()}
    return read_tensors(places, shapes, dtype)


def _gguf_tensors(file: Path) -> Tensors:
    """Return the tensors of a .gguf file; quantised ones keep their bytes and know their type."""
    # The library trusts the counts in the header.
    header = read_gguf_header(file)
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"{file} needs the library gguf, which is not installed; install it with "
            "pip install 'imagine-bot[small]'."
        )
    from diffusers.models.model_loading_utils import load_gguf_checkpoint  # noqa: PLC0415

    try:
        tensors: Tensors = load_gguf_checkpoint(str(file))
    # The library checks little, so a file that changed meanwhile may cause any error.
    except Exception as error:
        raise ModelError(
            f"{file} cannot be loaded ({first_sentence(error)}); download the file again or choose "
            "another."
        ) from error
    for name, shape in header.shapes.items():
        if name in tensors:
            tensors[name] = _in_shape(dequantized(tensors[name]), shape, file, name)
    return tensors


def _in_shape(tensor: torch.Tensor, shape: tuple[int, ...], file: Path, name: str) -> torch.Tensor:
    try:
        return tensor.reshape(shape)
    except RuntimeError as error:
        raise ModelError(
            f"{file} says that the tensor {name[:120]!r} has the shape {list(shape)}, and it has "
            f"{tensor.numel():,} numbers; download the file again or choose another."
        ) from error


def _converted(
    tensors: Tensors,
    shapes: Mapping[str, torch.Size],
    config: Mapping[str, Any],
    denoiser: DenoiserFile,
) -> Tensors:
    """Return the tensors by the names of diffusers' network."""
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    if tensors.keys() <= shapes.keys():
        return tensors
    kind = str(config.get(_CLASS))
    mapping = SINGLE_FILE_LOADABLE_CLASSES.get(kind)
    if kind == _UNET:
        tensors = {_PREFIX + name: tensor for name, tensor in tensors.items()}
    try:
        converted: Tensors = mapping["checkpoint_mapping_fn"](checkpoint=tensors, config=config)
    # The converters expect the names of their network, so another file may cause any error.
    except Exception as error:
        raise _other_network(denoiser, kind) from error
    return converted


def _check_fit(
    tensors: Tensors, shapes: Mapping[str, torch.Size], kind: str, denoiser: DenoiserFile
) -> None:
    missing = sorted(shapes.keys() - tensors.keys())
    if len(missing) == len(shapes):
        raise _other_network(denoiser, kind)
    if missing:
        raise ModelError(
            f"{denoiser.path} lacks {len(missing)} of the tensors of the {kind} that its base "
            f"describes (such as {missing[0][:120]}); choose the base that the file was made from."
        )
    if surplus := sorted(tensors.keys() - shapes.keys()):
        raise ModelError(
            f"{denoiser.path} has {len(surplus)} tensors that the {kind} of its base does not have "
            f"(such as {surplus[0][:120]}); choose the base that the file was made from."
        )
    if other := sorted(name for name, shape in shapes.items() if not _fits(tensors[name], shape)):
        raise ModelError(
            f"{denoiser.path} has {len(other)} tensors of another shape than the {kind} of its "
            f"base (such as {other[0][:120]}); choose the base that the file was made from."
        )


def _fits(tensor: torch.Tensor, shape: torch.Size) -> bool:
    found: tuple[int, ...] = getattr(tensor, "quant_shape", tensor.shape)
    return tuple(found) == tuple(shape) or (found[2:] == (1, 1) and found[:2] == tuple(shape))


def _other_network(denoiser: DenoiserFile, wanted: str) -> ModelError:
    said = ""
    if denoiser.is_gguf:
        architecture = read_gguf_header(denoiser.path).texts.get(ARCHITECTURE, "")
        said = f" (its architecture is {architecture[:40]!r})" if architecture else ""
    return ModelError(
        f"{denoiser.path} holds no {wanted}{said}; choose a file of the same family of models as "
        "its base."
    )


def _stays_quantized(network: nn.Module, name: str, tensor: torch.Tensor) -> bool:
    """Return whether a tensor is the matrix of a linear layer, which can compute with its bytes."""
    if not is_quantized(tensor) or not name.endswith(".weight"):
        return False
    layer = network.get_submodule(name.removesuffix(".weight"))
    return type(layer) is nn.Linear


def _set_quantized(network: nn.Module, name: str, weight: torch.Tensor, dtype: torch.dtype) -> None:
    from diffusers.quantizers.gguf.utils import GGUFLinear  # noqa: PLC0415

    plain: Any = network.get_submodule(name)
    with init_empty_weights():
        layer = GGUFLinear(
            plain.in_features, plain.out_features, plain.bias is not None, compute_dtype=dtype
        )
    layer._parameters["weight"] = weight
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, layer)


def _plain(
    tensor: torch.Tensor, shape: torch.Size, dtype: torch.dtype, file: Path, name: str
) -> torch.Tensor:
    numbers = dequantized(tensor)
    check_finite(numbers, file, name)
    return numbers.to(dtype, copy=True).reshape(shape)
