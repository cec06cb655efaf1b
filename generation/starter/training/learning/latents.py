"""Scenes as latents, encoded once for the training of the UNet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from ..drawings.drawing import Album, Bytes
from ..drawings.scenes import HeldOut, Scene, compose, draw_scene
from .autoencoder import to_tensor

SHARD: Final = 1_000
_MADE_BY: Final = "encoder.json"
# The memory of large layers is returned to the system and requested again each time: on two cores
# 64 at once took 1.8 times as long as 16. A GPU needs larger batches.
_BATCH: Final = 20
_BATCH_ON_GPU: Final = 250

Halves = npt.NDArray[np.float16]


class _Pictures(Dataset[Bytes]):
    """The pictures of scenes."""

    def __init__(self, album: Album, scenes: Callable[[int], Scene]) -> None:
        self._album, self._scenes = album, scenes

    def __getitem__(self, number: int) -> Bytes:
        return compose(self._album, self._scenes(number))


@torch.inference_mode()
def encoded(
    autoencoder: Any,
    album: Album,
    scenes: Callable[[int], Scene],
    numbers: Sequence[int],
    workers: int = 0,
) -> Iterator[torch.Tensor]:
    """Yield the means of the latents of scenes by their numbers, as float16 [n, c, h, w].

    Batches have the fastest size; `workers` processes compose the pictures.
    """
    pictures = DataLoader(
        _Pictures(album, scenes),
        sampler=numbers,
        batch_size=_BATCH if autoencoder.device.type == "cpu" else _BATCH_ON_GPU,
        num_workers=workers,
        collate_fn=np.stack,
    )
    for batch in pictures:
        placed = to_tensor(batch, autoencoder.device)
        yield autoencoder.encode(placed).latent_dist.mean.half().cpu()


@torch.inference_mode()
def encode(
    autoencoder: Any,
    album: Album,
    held: HeldOut,
    folder: Path,
    *,
    seed: int,
    shards: int,
    size: int = SHARD,
    workers: int = 0,
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Encode the missing ones of the first `shards` shards into files in `folder`.

    A shard holds the means of the latents of `size` scenes as float16, [size, c, h, w].

    Raises:
        ValueError: the existing shards were encoded by another autoencoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("*.npy")):
        (folder / _MADE_BY).write_text(json.dumps(fingerprint(autoencoder)), "utf-8")
    else:
        check_encoder(folder, autoencoder)
    missing = [shard for shard in range(shards) if not _file(folder, seed, shard).is_file()]
    numbers = [number for shard in missing for number in range(shard * size, (shard + 1) * size)]
    rest = torch.empty(0)
    waiting = iter(missing)
    drawn = partial(draw_scene, album, held, seed)
    for batch in encoded(autoencoder, album, drawn, numbers, workers):
        rest = torch.cat([rest, batch]) if len(rest) else batch
        while len(rest) >= size:
            shard = next(waiting)
            _write(rest[:size].numpy(), _file(folder, seed, shard))
            rest = rest[size:]
            report(shard + 1)


def fingerprint(autoencoder: Any) -> str:
    """Return a hash of the encoder, which identifies the latents of this autoencoder."""
    found = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            found.update(name.encode() + value.float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def check_encoder(folder: Path, autoencoder: Any) -> None:
    """Raise ValueError unless the latents in `folder` were encoded by `autoencoder`."""
    file = folder / _MADE_BY
    if not any(folder.glob("*.npy")):
        raise ValueError(f"There are no latents in {folder}; encode the scenes first.")
    if not file.is_file() or json.loads(file.read_text("utf-8")) != fingerprint(autoencoder):
        raise ValueError(
            f"The latents in {folder} were encoded by another autoencoder; "
            "remove them, and encode the scenes again."
        )


def poses(album: Album) -> list[tuple[int, str]]:
    """Return each picture of the album as its thing's place and its style."""
    return [(place, style) for place, thing in enumerate(album.things) for style in thing.styles]


def _write(latents: Halves, file: Path) -> None:
    unfinished = file.with_suffix(".partial")
    with unfinished.open("wb") as out:
        np.save(out, latents)
    unfinished.replace(file)


def read_latents(folder: Path, seed: int) -> torch.Tensor:
    """Return the latents in `folder`, from scene 0 on without a gap, as float16.

    Raises:
        FileNotFoundError: there are none.
    """
    found: list[Halves] = []
    while _file(folder, seed, len(found)).is_file():
        found.append(np.load(_file(folder, seed, len(found))))
    if not found:
        raise FileNotFoundError(f"There are no latents in {folder}; encode the scenes first.")
    return torch.from_numpy(np.concatenate(found))


def _file(folder: Path, seed: int, shard: int) -> Path:
    return folder / f"{seed}-{shard:05d}.npy"
