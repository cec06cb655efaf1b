"""An autoencoder from a file of its own, in place of a model's; importing this loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...errors import ModelError
from ..files import PICKLES, SAFETENSORS, pickle_sentence, read_config

_IN_FOLDER: Final = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
)
# The shape of the network, and the scale of its latents, which the denoiser was trained on.
_AGREEING: Final = (
    "latent_channels",
    "scaling_factor",
    "shift_factor",
    "block_out_channels",
    "layers_per_block",
)


def find_autoencoder(name: str, model: Path) -> Path:
    """Return the file with the weights of the autoencoder `name`, a file or a folder.

    `model` is the folder of the model that it is for. Its config counts; that of a folder has to
    agree with it.

    Raises:
        ModelError: there is no such file, it is a pickle, or it is for another kind of model.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() in PICKLES:
        raise ModelError(pickle_sentence(f"The VAE {name}"))
    if not path.is_dir():
        if path.suffix.lower() not in SAFETENSORS or not path.is_file():
            raise ModelError(
                f"There is no VAE {name}; set vae to a .safetensors file, or to a folder in the "
                "layout of diffusers."
            )
        return path
    file = next((path / each for each in _IN_FOLDER if (path / each).is_file()), None)
    if file is None:
        raise ModelError(f"The VAE {name} has no {_IN_FOLDER[0]}; download it again.")
    theirs, ours = read_config(path, "config.json"), read_config(model, "vae/config.json")
    for key in _AGREEING:
        if key in theirs and theirs[key] != ours.get(key, theirs[key]):
            raise other_model(path, f"{key} is {str(theirs[key])[:40]} and not {ours[key]}")
    return file


def other_model(file: Path, why: str) -> ModelError:
    """Return the error for an autoencoder that does not fit a model."""
    return ModelError(
        f"The VAE {file} is made for another kind of model ({why}); choose one for this kind, or "
        "leave vae out."
    )
