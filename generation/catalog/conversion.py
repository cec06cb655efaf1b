"""From the layout of a first release, one file, to the layout of diffusers.

The diffusers pipelines only read that layout here; they never make a picture.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ModelError
from ..libraries import quiet
from .checkpoint import Checkpoint
from .files import SCHEDULER_CONFIG, read_config
from .tensors import DTYPES, read_tensor


def convert(checkpoint: Checkpoint, configs: Path, folder: Path) -> None:
    """Save the weights of `checkpoint` in `folder`, with the configs and tokenizers from `configs`.

    The weights are saved in the type of the checkpoint's UNet. The marks of the checkpoint go into
    the scheduler's config.

    Raises:
        ModelError: the tensors do not fit the configs, or a number is not finite.
        OSError: the folder cannot be written.
    """
    folder.mkdir(exist_ok=True)
    with quiet(), torch.random.fork_rng(devices=[]), _plain(checkpoint, folder) as plain:
        try:
            _read(checkpoint, plain, configs).save_pretrained(folder)
        except NotImplementedError as error:
            # A missing tensor stays on the meta device, from which nothing can be copied.
            raise ModelError(
                f"{checkpoint.file} lacks tensors of {checkpoint.kind.name}; download it again or "
                "choose another."
            ) from error
    if checkpoint.scheduler:
        settings = read_config(folder, SCHEDULER_CONFIG) | dict(checkpoint.scheduler)
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (folder / SCHEDULER_CONFIG).write_text(text, encoding="utf-8")


@contextmanager
def _plain(checkpoint: Checkpoint, folder: Path) -> Iterator[Path]:
    """Yield a file with the names of the first release, in which every number is finite.

    Its name ends in .safetensors, since diffusers reads a file of any other name as a pickle.
    """
    file, plain = checkpoint.file, folder / "checkpoint.safetensors"
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


def _read(checkpoint: Checkpoint, plain: Path, configs: Path) -> Any:
    kind = checkpoint.kind
    # This engine neither checks nor marks pictures in the way of these pipelines.
    options = {"safety_checker": None} if _takes(kind.pipeline, "safety_checker") else {}
    try:
        return getattr(diffusers, kind.pipeline).from_single_file(
            str(plain),
            config=str(configs),
            dtype=DTYPES[checkpoint.dtype],
            local_files_only=True,
            feature_extractor=None,
            **options,
        )
    except NotImplementedError:
        raise
    # The reader raises a different error for each kind of wrong file.
    except Exception as error:
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise ModelError(
            f"{checkpoint.file} is no {kind.name} checkpoint that can be read ({reason}); choose "
            "another one."
        ) from error


def _takes(pipeline: str, option: str) -> bool:
    return option in inspect.signature(getattr(diffusers, pipeline).__init__).parameters
