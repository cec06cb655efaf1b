"""From the one-file layout of Stable Diffusion's first release to that of diffusers.

The diffusers pipeline serves here as the reader of that layout; it never makes a picture.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from .errors import ModelError
from .weights import DTYPES, quiet


def convert(file: Path, configs: Path, folder: Path, *, dtype: str) -> None:
    """Save what `file` holds in `folder`, with the configs and the tokenizer from `configs`.

    The weights are saved as `dtype`, best the one that they have in the file.

    Raises:
        ModelError: the tensors do not fit the configs.
        OSError: the folder cannot be written.
    """
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            _read(file, configs, DTYPES[dtype]).save_pretrained(folder)
        except NotImplementedError as error:
            # What the file lacks stays on the meta device, from where nothing can be copied.
            raise ModelError(
                f"{file} lacks tensors of Stable Diffusion 1; download it again or choose another."
            ) from error


def _read(file: Path, configs: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    try:
        return StableDiffusionPipeline.from_single_file(
            str(file),
            config=str(configs),
            dtype=dtype,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
        )
    except NotImplementedError:
        raise
    # The reader fails in as many ways as a file can be wrong.
    except Exception as error:
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise ModelError(
            f"{file} is no Stable Diffusion 1 checkpoint that can be read ({reason}); choose "
            "another one."
        ) from error
