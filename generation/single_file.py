"""A checkpoint in one .safetensors file, made into a folder like that of any other model.

It is converted once: what the file holds is saved in the layout of diffusers, in the
cache of the hub's client, under the hash of the file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import cached_assets_path
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # has no __all__
from safetensors import SafetensorError, safe_open

from .errors import ModelError
from .hub import download_configs
from .model_files import file_sha256

_UNET: Final = "model.diffusion_model.input_blocks.0.0.weight"
_VAE: Final = "first_stage_model.decoder.conv_in.weight"
# The names that diffusers, too, knows the text encoders by.
_TEXT_ENCODER: Final = (
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
)
_OTHER_TEXT_ENCODERS: Final = ("conditioner.", "cond_stage_model.model.", "text_encoders.")
_UNFINISHED: Final = "unfinished-"
_DTYPES: Final = {"F16": "float16", "BF16": "bfloat16"}
# A single file holds weights alone; all of Stable Diffusion 1 shares these configs.
CONFIGS: Final = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def open_single_file(file: Path, *, token: str | None = None) -> Path:
    """Return the folder that the checkpoint `file` was converted to, now or before.

    Raises:
        ModelError: there is no such file, it is no whole Stable Diffusion 1 checkpoint, or
            the configs cannot be had from the hub.
    """
    if not file.is_file():
        raise ModelError(f"There is no file {file}; check the spelling of the model.")
    digest = file_sha256(file)
    try:
        shelf = cached_assets_path("imagine-bot", namespace="single-files")
        folder = shelf / digest
        if not folder.is_dir():
            dtype = _check(file)
            configs = download_configs(CONFIGS, token=token)
            with _alone(shelf):
                # Another process may just have done it.
                if not folder.is_dir():
                    _convert(file, configs, folder, dtype)
    except OSError as error:
        raise ModelError(
            f"The model {file} cannot be converted ({error.strerror or error}); it takes as much "
            "room again in the cache folder, which HF_HOME can move to another disk."
        ) from error
    return folder


@contextmanager
def _alone(shelf: Path) -> Iterator[None]:
    """Wait until no other process converts, and remove what a killed one left unfinished.

    The kernel lets go of the lock when its holder dies, however it dies: what is unfinished
    here once the lock is ours is nobody's.
    """
    with WeakFileLock(shelf.with_suffix(".lock")):
        for left in shelf.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _convert(file: Path, configs: Path, folder: Path, dtype: str) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        # This loads torch, which a file that was converted before does without.
        from .conversion import convert  # noqa: PLC0415

        convert(file, configs, unfinished, dtype=dtype)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check(file: Path) -> str:
    """Return the dtype of the UNet in a checkpoint, after a look at the names of its tensors.

    Raises:
        ModelError: the file is broken or no whole checkpoint of Stable Diffusion 1.
    """
    try:
        with safe_open(file, framework="np") as tensors:
            names = frozenset(tensors.keys())
            first = tensors.get_slice(_UNET) if _UNET in names else None
            channels = first.get_shape()[1] if first else 0
            dtype = _DTYPES.get(first.get_dtype() if first else "", "float32")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}); download it again.") from error
    if any(name.startswith(_OTHER_TEXT_ENCODERS) for name in names):
        raise ModelError(
            f"{file} is no checkpoint of Stable Diffusion 1, the only kind that is read from a "
            "single file; name a Stable Diffusion 2 model by its folder or hub id."
        )
    for name, part in ((_UNET, "UNet"), (_VAE, "VAE"), (_TEXT_ENCODER, "text encoder")):
        if name not in names:
            raise ModelError(
                f"{file} holds no Stable Diffusion {part}, so it is no whole model (a LoRA or an "
                "embedding is none); choose a full checkpoint."
            )
    if channels != 4:  # noqa: PLR2004
        raise ModelError(
            f"{file} is made for inpainting ({channels} channels); choose a text-to-image model."
        )
    return dtype
