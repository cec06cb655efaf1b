"""Networks from a config and from tensors that fit it.

Neither library reads a file or looks for one, so what is loaded is what was chosen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import init_empty_weights

from ...catalog.files import ModelFiles, read_config
from ...catalog.parts import Place, find_tensors
from ...catalog.profile import ModelProfile
from ...catalog.tensors import read_tensors
from ...errors import ModelError
from .quantized import store_in_int8

Make: TypeAlias = Callable[[Mapping[str, Any]], Any]
"""Makes a network with random weights from its config."""


def of_diffusers(kind: Any) -> Make:
    """Return what makes a network of a class of diffusers."""
    # The library gets only those keys of a config that its constructor knows.
    known = inspect.signature(kind.__init__).parameters.keys()
    return lambda config: kind.from_config({k: v for k, v in config.items() if k in known})


def load_network(
    profile: ModelProfile, part: str, make: Make, files: ModelFiles, dtype: torch.dtype
) -> Any:
    """Return the network that is a part of a model, with weights of type `dtype`.

    If `files` has no weights of any part, the network has only shapes.

    Raises:
        ModelError: a file is broken, or the config and the weights do not fit each other.
    """
    folder = profile.folder
    config = read_config(folder, f"{part}/config.json")
    if not files.weights:
        with made_from(part, folder / part / "config.json"), torch.device("meta"):
            return make(config).to(dtype).eval()
    if part not in files.weights and profile.denoiser is not None:
        # It needs the converters of diffusers, which take a second to load.
        from .denoiser import load_denoiser  # noqa: PLC0415

        shapes = expected_shapes(make, part, config, folder / part / "config.json")
        return load_denoiser(profile.denoiser, partial(make, config), shapes, config, dtype)
    if part == "vae" and profile.autoencoder is not None:
        from .autoencoder import load_autoencoder  # noqa: PLC0415 - as above

        shapes = expected_shapes(make, part, config, folder / part / "config.json")
        return load_autoencoder(profile.autoencoder, make, config, shapes, dtype)
    weights = files.weights[part]
    file = folder / weights.names[0]
    shapes = expected_shapes(make, part, config, file)
    places = find_tensors(folder, weights, shapes)
    # The shapes in the headers are compared before memory for the network is taken.
    check_fit(part, shapes, places, file)
    with init_empty_weights(include_buffers=False):
        network = make(config)
    network.load_state_dict(read_tensors(places, shapes, dtype), assign=True)
    network.eval().requires_grad_(False)
    if profile.savings.quantize == "int8" and part != "vae":
        store_in_int8(network)
    return network


def expected_shapes(
    make: Make, part: str, config: Mapping[str, Any], file: Path
) -> dict[str, torch.Size]:
    """Return the shapes of a network's tensors, without taking memory for the network.

    Raises:
        ModelError: the config makes no network.
    """
    with made_from(part, file.parent / "config.json"), torch.device("meta"):
        state = make(config).state_dict()
    return {name: tensor.shape for name, tensor in state.items()}


@contextmanager
def made_from(part: str, config: Path) -> Iterator[None]:
    """Turn any error of a library inside into a sentence about the config that caused the error.

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
        ModelError: a tensor is missing or has another shape: the library would use random numbers.
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
    # Older attention blocks store as a convolution of one pixel what is a matrix today.
    return tuple(shape) == found or (found[2:] == (1, 1) and tuple(shape) == found[:2])
