"""Trains the autoencoder, and measures how well it reconstructs pictures that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from ..drawings.drawing import EDGE, Album, Bytes
from ..drawings.scenes import Scene, compose, draw_scene
from .networks import Shape, new_autoencoder
from .progress import read, save, step_generator
from .trainer import Batch

_CROP: Final = 64
_CROPS_PER_SCENE: Final = 2
_WHOLE_EVERY: Final = 4
_ASTRAY: Final = 28
_SLOPES: Final = 0.5
_SQUARES: Final = 4.0
_KL: Final = 2e-4
_HELD_OUT_EVERY: Final = 20
_TEST_SET: Final = 977
_CHECKPOINT: Final = "autoencoder.pt"
_ENCODER: Final = ("autoencoder.encoder.", "autoencoder.quant_conv.")


class Reconstruction(nn.Module):
    """Encodes pictures to latents and decodes them, with noise that the caller draws."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(
        self, pictures: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the reconstructed pictures, and the latents' means and log variances."""
        latents = self.autoencoder.encode(pictures).latent_dist
        mean, log_variance = latents.mean.float(), latents.logvar.float()
        sample = mean + (0.5 * log_variance).exp() * noise
        return self.autoencoder.decode(sample).sample.float(), mean, log_variance


def shown_to_autoencoder(scene: Scene) -> bool:
    """Return whether the autoencoder may learn from `scene`: one thing in 20 is held out."""
    return all(subject.thing % _HELD_OUT_EVERY for subject in scene.subjects)


def to_tensor(pictures: Bytes, device: torch.device | None = None) -> torch.Tensor:
    """Return RGB pictures [n, height, width, 3] as the networks' input: [n, 3, h, w], -1 to 1."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def training_batch(album: Album, seed: int, step: int, rank: int, count: int) -> torch.Tensor:
    """Return the pictures of one step: crops around things, every fourth time whole pictures.

    A whole picture costs as much as four crops, so there are a quarter as many.
    """
    random = np.random.default_rng([seed, 2, step, rank])
    whole = step % _WHOLE_EVERY == _WHOLE_EVERY - 1
    crops = 1 if whole else _CROPS_PER_SCENE
    found: list[Bytes] = []
    while len(found) < (max(1, count // 4) if whole else count):
        scene = draw_scene(album, None, seed, int(random.integers(2**31)))
        if not shown_to_autoencoder(scene):
            continue
        picture = compose(album, scene)
        found += [picture if whole else _crop(picture, scene, random) for _ in range(crops)]
    return to_tensor(np.stack(found))


def _crop(picture: Bytes, scene: Scene, random: np.random.Generator) -> Bytes:
    subject = scene.subjects[int(random.integers(len(scene.subjects)))]
    middle = np.array([subject.y, subject.x]) * EDGE + random.uniform(-_ASTRAY, _ASTRAY, 2)
    top, left = np.clip(middle - _CROP / 2, 0, EDGE - _CROP).astype(int)
    return picture[top : top + _CROP, left : left + _CROP]


class AutoencoderTask:
    """Trains the autoencoder on crops of scenes; with `decoder_only`, only the decoder."""

    name = "autoencoder"

    def __init__(
        self, album: Album, shape: Shape, seed: int, *, decoder_only: bool = False
    ) -> None:
        torch.manual_seed(seed)
        self.network = Reconstruction(new_autoencoder(shape))
        for name, value in self.network.named_parameters():
            value.requires_grad_(not (decoder_only and name.startswith(_ENCODER)))
        self._album, self._shape, self._seed = album, shape, seed

    def batch(self, step: int, rank: int, count: int) -> Batch:
        """Return pictures, and the noise for their latents."""
        pictures = training_batch(self._album, self._seed, step, rank, count)
        size = (
            len(pictures),
            self._shape.latent_channels,
            *(side // self._shape.shrink for side in pictures.shape[2:]),
        )
        noise = torch.randn(size, generator=step_generator(self._seed, step, rank))
        return {"pictures": pictures, "noise": noise}

    def loss(
        self, network: nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Return the loss: squared and absolute differences, of slopes too, and a little KL."""
        pictures = batch["pictures"].contiguous(memory_format=torch.channels_last)
        back, mean, log_variance = network(pictures, batch["noise"])
        away = back - pictures
        absolute, squared = away.abs().mean(), away.square().mean()
        slopes = away.diff(dim=2).abs().mean() + away.diff(dim=3).abs().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = absolute + _SQUARES * squared + _SLOPES * slopes + _KL * kl
        return loss, {"absolute": absolute, "squared": squared, "kl": kl}

    def facts(self) -> Mapping[str, Any]:
        """Return the shape of the network."""
        return {"shape": asdict(self._shape)}


def settle_encoder(folder: Path) -> None:
    """Replace the encoder of the checkpoint in `folder` by its averaged encoder.

    So the average does not change while the decoder alone is trained, and latents that were made
    with it stay valid.

    Raises:
        FileNotFoundError: `folder` has no checkpoint.
    """
    state = _checkpoint(folder)
    for name, value in state["average"].items():
        if name.startswith(_ENCODER):
            state["network"][name] = value
    save(state, folder / _CHECKPOINT)


def _checkpoint(folder: Path) -> dict[str, Any]:
    state = read(folder / _CHECKPOINT)
    if state is None:
        raise FileNotFoundError(f"{folder} holds no {_CHECKPOINT}; train the autoencoder first.")
    return state


def trained(shape: Shape, folder: Path) -> Any:
    """Return the autoencoder of the checkpoint in `folder`, with its averaged weights.

    Raises:
        FileNotFoundError: `folder` has no checkpoint.
    """
    network = Reconstruction(new_autoencoder(shape))
    network.load_state_dict(_checkpoint(folder)["average"], strict=True)
    return network.autoencoder.eval().requires_grad_(False)


@torch.inference_mode()
def held_out_psnr(autoencoder: Any, album: Album, count: int = 200) -> tuple[float, float]:
    """Return the mean PSNR in dB over `count` scenes of held-out things, and of seen ones.

    It is the mean of 10 log10(255^2 / MSE) of each picture, as in the literature.
    """
    found: dict[bool, list[Bytes]] = {False: [], True: []}
    number = 0
    while any(len(pictures) < count for pictures in found.values()):
        scene = draw_scene(album, None, _TEST_SET, number)
        number += 1
        if len(scene.subjects) == 1:
            found[shown_to_autoencoder(scene)].append(compose(album, scene))
    held = _psnr(autoencoder, np.stack(found[False][:count]))
    return held, _psnr(autoencoder, np.stack(found[True][:count]))


def _psnr(autoencoder: Any, pictures: Bytes) -> float:
    values = []
    for batch in torch.split(to_tensor(pictures), 50):
        placed = batch.to(autoencoder.device)
        mean = autoencoder.encode(placed.to(autoencoder.dtype)).latent_dist.mean
        away = (autoencoder.decode(mean).sample.float().clamp(-1, 1) - placed) / 2
        values.append(-10 * away.square().mean((1, 2, 3)).log10())
    return float(torch.cat(values).mean())
