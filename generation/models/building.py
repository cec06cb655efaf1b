"""Networks from a config and from tensors that are known to fit it.

Nothing is looked for here: neither library reads a file, so what is loaded is what was chosen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ..catalog.parts import Place
from ..catalog.tensors import read_tensors
from ..errors import ModelError

# Keys of a text encoder's config that change what it computes or are asked for by our own code.
_TEXT_KEYS: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def _text_encoder(config: Mapping[str, Any]) -> Any:
    return CLIPTextModel(CLIPTextConfig(**{k: config[k] for k in _TEXT_KEYS if k in config}))


def _of_diffusers(kind: Any) -> Callable[[Mapping[str, Any]], Any]:
    # Only what its constructor knows: nothing else of a config reaches the library.
    known = inspect.signature(kind.__init__).parameters.keys()
    return lambda config: kind.from_config({k: v for k, v in config.items() if k in known})


NETWORKS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "text_encoder": _text_encoder,
    "unet": _of_diffusers(UNet2DConditionModel),
    "vae": _of_diffusers(AutoencoderKL),
}


def build(
    part: str,
    config: Mapping[str, Any],
    places: Mapping[str, Place],
    file: Path,
    dtype: torch.dtype,
) -> Any:
    """Return the network that `config` describes with the tensors from `places` as `dtype`.

    Its shapes are compared with those in the headers before memory for it is taken. `file` is the
    one that sentences name.

    Raises:
        ModelError: the config makes no network, or the tensors do not fit it.
    """
    shapes = expected_shapes(part, config, file)
    check_fit(part, shapes, places, file)
    with init_empty_weights(include_buffers=False):
        network = NETWORKS[part](config)
    network.load_state_dict(read_tensors(places, shapes, dtype), assign=True)
    return network.eval().requires_grad_(False)


def expected_shapes(part: str, config: Mapping[str, Any], file: Path) -> dict[str, torch.Size]:
    """Return the shapes of the tensors that a network has; it is built without memory.

    Raises:
        ModelError: the config makes no network.
    """
    with made_from(part, file.parent / "config.json"), torch.device("meta"):
        state = NETWORKS[part](config).state_dict()
    return {name: tensor.shape for name, tensor in state.items()}


@contextmanager
def made_from(part: str, config: Path) -> Iterator[None]:
    """Turn any error of a library inside into a sentence about the config whose values it got.

    Raises:
        ModelError: the config makes no network.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"{config} makes no {part} ({reason[:100].rstrip('.')}); download the model again or "
            "choose another."
        ) from error


def check_fit(
    part: str, shapes: Mapping[str, torch.Size], places: Mapping[str, Place], file: Path
) -> None:
    """Compare the tensors of a network with those in its files.

    Raises:
        ModelError: one is missing or has another shape: it would be filled with random numbers.
    """
    if missing := sorted(shapes.keys() - places.keys()):
        raise ModelError(
            f"{file} lacks {len(missing)} of the tensors that {part}/config.json asks for (such as "
            f"{missing[0]}); download the model again."
        )
    if other := sorted(n for n, shape in shapes.items() if not _fits(shape, places[n])):
        raise ModelError(
            f"{file} has {len(other)} tensors of another shape than {part}/config.json asks for "
            f"(such as {other[0]}); download the model again."
        )


def _fits(shape: torch.Size, place: Place) -> bool:
    found = place.info.shape
    # What is a matrix today was a convolution of one pixel in older attention blocks.
    return tuple(shape) == found or (found[2:] == (1, 1) and tuple(shape) == found[:2])
