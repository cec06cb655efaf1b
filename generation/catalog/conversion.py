"""From the layout of Stable Diffusion's first release, one file, to the layout of diffusers.

The diffusers pipeline only reads that layout here; it never makes a picture.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ModelError
from ..libraries import quiet
from .checkpoint import Checkpoint, read_checkpoint
from .files import SCHEDULER_CONFIG, read_config
from .tensors import DTYPES, read_tensor


def convert(file: Path, configs: Path, folder: Path, *, dtype: str) -> None:
    """Save the weights of `file` in `folder`, with the configs and the tokenizer from `configs`.

    The weights are saved as `dtype`, which should be their type in the file. The marks of the file
    go into the scheduler's config.

    Raises:
        ModelError: the tensors do not fit the configs, or a number is not finite.
        OSError: the folder cannot be written.
    """
    checkpoint = read_checkpoint(file)
    folder.mkdir(exist_ok=True)
    with quiet(), torch.random.fork_rng(devices=[]), _plain(file, checkpoint, folder) as plain:
        try:
            _read(file, plain, configs, DTYPES[dtype]).save_pretrained(folder)
        except NotImplementedError as error:
            # A missing tensor stays on the meta device, from which nothing can be copied.
            raise ModelError(
                f"{file} lacks tensors of Stable Diffusion 1; download it again or choose another."
            ) from error
    if checkpoint.scheduler:
        settings = read_config(folder, SCHEDULER_CONFIG) | dict(checkpoint.scheduler)
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (folder / SCHEDULER_CONFIG).write_text(text, encoding="utf-8")


@contextmanager
def _plain(file: Path, checkpoint: Checkpoint, folder: Path) -> Iterator[Path]:
    """Yield a file with the names of the first release, in which every number is finite.

    Its name ends in .safetensors, since diffusers reads a file of any other name as a pickle.
    """
    plain = folder / "checkpoint.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name, place in checkpoint.places.items():
                tensor = read_tensor(opened, place)
                if not checkpoint.is_plain:
                    tensors[name] = tensor
        if checkpoint.is_plain:
            plain.symlink_to(file.resolve())
        else:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, plain)
            tensors.clear()
        yield plain
    except SafetensorError as error:
        raise ModelError(f"{file} cannot be read ({error}); download it again.") from error
    finally:
        plain.unlink(missing_ok=True)


def _read(file: Path, plain: Path, configs: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    try:
        return StableDiffusionPipeline.from_single_file(
            str(plain),
            config=str(configs),
            dtype=dtype,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
        )
    except NotImplementedError:
        raise
    # The reader raises a different error for each kind of wrong file.
    except Exception as error:
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise ModelError(
            f"{file} is no Stable Diffusion 1 checkpoint that can be read ({reason}); choose "
            "another one."
        ) from error
