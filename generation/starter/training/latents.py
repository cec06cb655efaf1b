"""Scenes as latents, encoded once: what the UNet learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from .autoencoder import to_tensor
from .drawing import Album
from .scenes import HeldOut, compose, draw_scene

SHARD: Final = 1_000
_MADE_BY: Final = "encoder.json"
# Large layers are given back to the system and fetched anew each time: 64 at once took 1.8 times
# as long as 16 on two cores.
_BATCH: Final = 20

Halves = npt.NDArray[np.float16]


class _Pictures(Dataset[torch.Tensor]):
    """The pictures of scenes, as the autoencoder sees them."""

    def __init__(self, album: Album, held: HeldOut, seed: int) -> None:
        self._album, self._held, self._seed = album, held, seed

    def __getitem__(self, number: int) -> torch.Tensor:
        scene = draw_scene(self._album, self._held, self._seed, number)
        return to_tensor(compose(self._album, scene)[None])[0]


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
    """Encode what is missing of the first `shards` shards into files in `folder`.

    A shard holds the means of the latents of `size` scenes as float16, [size, c, h, w]; the
    batches of 20 have to fill it.

    Raises:
        ValueError: what is there was encoded by another autoencoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("*.npy")):
        (folder / _MADE_BY).write_text(json.dumps(fingerprint(autoencoder)), "utf-8")
    else:
        check_encoder(folder, autoencoder)
    missing = [shard for shard in range(shards) if not _file(folder, seed, shard).is_file()]
    numbers = [number for shard in missing for number in range(shard * size, (shard + 1) * size)]
    pictures = DataLoader(
        _Pictures(album, held, seed),
        sampler=numbers,
        batch_size=min(_BATCH, size),
        num_workers=workers,
    )
    found: list[Halves] = []
    waiting = iter(missing)
    for batch in pictures:
        mean = autoencoder.encode(batch.to(autoencoder.device)).latent_dist.mean
        found.append(mean.cpu().numpy().astype(np.float16))
        if sum(map(len, found)) == size:
            shard = next(waiting)
            _write(np.concatenate(found), _file(folder, seed, shard))
            found.clear()
            report(shard + 1)


def fingerprint(autoencoder: Any) -> str:
    """Return what tells this autoencoder's latents from another's: a hash of what encodes."""
    found = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            found.update(name.encode() + value.float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def check_encoder(folder: Path, autoencoder: Any) -> None:
    """Raise ValueError unless the latents in `folder` are those of `autoencoder`."""
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
    partial = file.with_suffix(".partial")
    with partial.open("wb") as out:
        np.save(out, latents)
    partial.replace(file)


def read_latents(folder: Path, seed: int, shards: int | None = None) -> torch.Tensor:
    """Return the latents in `folder`, from scene 0 on without a gap, as float16.

    With `shards`, so many and no more.

    Raises:
        FileNotFoundError: there are none, or fewer than `shards`.
    """
    found: list[Halves] = []
    while (shards is None or len(found) < shards) and _file(folder, seed, len(found)).is_file():
        found.append(np.load(_file(folder, seed, len(found))))
    if not found or (shards is not None and len(found) < shards):
        raise FileNotFoundError(f"{folder} holds {len(found)} shards of latents; encode more.")
    return torch.from_numpy(np.concatenate(found))


def _file(folder: Path, seed: int, shard: int) -> Path:
    return folder / f"{seed}-{shard:05d}.npy"
