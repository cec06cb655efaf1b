"""Bounds for the values in a model's configs.

A config is a few hundred bytes of numbers and names. A number may ask for gigabytes, and a name may
make a library import or download something.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError

# Each of these makes transformers or diffusers run foreign code, or load other weights than those
# in the file.
_FOREIGN: Final = (
    "auto_map",
    "custom_pipeline",
    "custom_pipelines",
    "quantization_config",
    "trust_remote_code",
)
# These choose an implementation; the name of a repository makes transformers download one.
_IMPLEMENTATIONS: Final = ("_attn_implementation", "attn_implementation", "experts_implementation")
_BLOCKS_MOST: Final = 16
_LAYERS_MOST: Final = 128
_ITEMS_MOST: Final = 64
_SIZE_MOST: Final = 1_000_000
_TIMESTEPS_MOST: Final = 10_000
_SCHEDULE: Final = ("num_train_timesteps", "original_inference_steps")
# Layers of attention in each layer of a block, on the way down and, where it differs, up.
_TRANSFORMERS: Final = ("transformer_layers_per_block", "reverse_transformer_layers_per_block")
_LAYERS: Final = (
    "layers_per_block",
    "num_hidden_layers",
    "num_layers",
    "num_single_layers",
    "n_layers",
    "n_refiner_layers",
    *_TRANSFORMERS,
)
# The blocks times the layers of each: Stable Diffusion 2 has 8, and SDXL 60.
_LAYERS_IN_ALL_MOST: Final = 128
# It widens every picture on its way through the network; all models have 0 or 1.
_PADDING: Final = "downsample_padding"
_PADDING_MOST: Final = 8


def check_harmless(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config that makes a library import or download something.

    Raises:
        ModelError: a key does so; the sentence names the file and the key.
    """
    for key in _FOREIGN:
        # A false value, as in `"trust_remote_code": false`, switches the key off.
        if config.get(key):
            raise _refused(path, key)
    for key in _IMPLEMENTATIONS:
        if "/" in str(config.get(key, "")):
            raise _refused(path, key)


def _refused(path: Path, key: str) -> ModelError:
    return ModelError(
        f"{path} sets {key}, which asks for code or weights from outside this file, so it is "
        "refused; choose a plain model, or remove the key if you trust the rest."
    )


def check_network(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse the config of a network with a number far above those of known networks.

    Raises:
        ModelError: there is such a number; the sentence names the file and the key.
    """
    for key, value in config.items():
        most = _PADDING_MOST if key == _PADDING else _SIZE_MOST
        _check(path, key, value, _LAYERS_MOST if key in _LAYERS else most)
    blocks = config.get("block_out_channels", ())
    if isinstance(blocks, list) and len(blocks) > _BLOCKS_MOST:
        raise wrong(path, "block_out_channels", blocks, f"at most {_BLOCKS_MOST} numbers")
    layers = _most(blocks, whole=len) * _most(config.get("layers_per_block", 1))
    if layers * max(_most(config.get(key, 1)) for key in _TRANSFORMERS) > _LAYERS_IN_ALL_MOST:
        raise wrong(path, "layers_per_block", config.get("layers_per_block"), "fewer layers")


def _most(value: Any, whole: Any = None) -> int:
    """Return the largest number in a value, or by `whole` how many numbers there are."""
    if isinstance(value, list):
        return whole(value) if whole else max((_most(item) for item in value), default=1)
    return value if isinstance(value, int) else 1


def check_scheduler(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a scheduler's config that asks for an absurd number of timesteps.

    Raises:
        ModelError: the number is too large; the sentence names the file and the key.
    """
    for key, value in config.items():
        most = _TIMESTEPS_MOST if key in _SCHEDULE else _SIZE_MOST
        _check(path, key, value, most, items=_TIMESTEPS_MOST)


def _check(path: Path, key: str, value: Any, most: int, items: int = _ITEMS_MOST) -> None:
    if isinstance(value, int | float) and abs(value) > most:
        raise wrong(path, key, value, f"a number of at most {most:,}")
    if isinstance(value, list | dict) and len(value) > items:
        raise wrong(path, key, value, f"at most {items:,} values")
    inner: Sequence[Any] = [*value.values()] if isinstance(value, dict) else value
    if isinstance(value, list | dict):
        for item in inner:
            _check(path, key, item, most, items)


def wrong(path: Path, key: str, value: object, expected: str) -> ModelError:
    """Return the error for a value that is not what was expected."""
    return ModelError(
        f"{path} says {key[:80]} = {_SHORT.repr(value)} instead of {expected}; download the model "
        "again or choose another one."
    )


_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
