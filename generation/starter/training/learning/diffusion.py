"""Trains the UNet on cached latents, with a text encoder that is trained already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from ..drawings.drawing import Album
from ..drawings.scenes import HeldOut
from .captions import Captioner
from .looking import cross_attentions, look_at_patches
from .networks import PATCHES, Shape, new_text_encoder, new_unet, noise_schedule
from .progress import step_generator
from .reading import taught
from .sketches import LOUD
from .trainer import Batch

_EMPTY_PROMPTS: Final = 0.1
# Beside the one in seven of all scenes: of two things side by side one in four was right, where
# alone nine of ten were.
_PAIRS: Final = 0.4
_LOOKED_AT: Final = 384
# The share that starts from noise alone, as every picture does. At the last timestep a rest of the
# picture still tells its coarse colours. A network that never saw pure noise takes the colours that
# the noise has by chance for the picture's (Lin et al. 2023, "Common Diffusion Noise Schedules and
# Sample Steps are Flawed", https://arxiv.org/abs/2305.08891).
_BEGINNINGS: Final = 0.05
# The largest weight of the picture's error. Without it, timesteps with little noise would outweigh
# all others (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy",
# https://arxiv.org/abs/2303.09556).
_WEIGHT_MOST: Final = 5.0


class Denoiser(nn.Module):
    """The UNet and its text encoder, which is not trained further after `reading`.

    The text encoder was trained without noise and on many times as many captions.
    """

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder.requires_grad_(False)

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the prediction of v for noisy latents [n, c, h, w] and token ids [n, tokens]."""
        with torch.no_grad():
            text = self.text_encoder(ids)[0]
        prediction: torch.Tensor = self.unet(noisy, timesteps, text, return_dict=False)[0]
        return prediction.float()


class DiffusionTask:
    """Trains on `latents` [scenes, c, h, w], the scenes of `album` from number 0 on.

    `scale` brings the latents to unit variance; the engine uses the autoencoder's
    `scaling_factor` for this.
    """

    name = "diffusion"

    def __init__(
        self,
        album: Album,
        held: HeldOut,
        latents: torch.Tensor,
        tokenizer: Any,
        shape: Shape,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.network = Denoiser(new_unet(shape), new_text_encoder(shape, tokenizer))
        if not torch.cuda.is_available():
            # On a CPU latents this small are a sixth faster without the fused attention, because
            # its backward pass is slow.
            self.network.unet.set_attn_processor(AttnProcessor())
        self._captions = Captioner(album, held, tokenizer, seed)
        self._latents, self._shape, self._seed = latents, shape, seed
        self.scale = 1 / float(latents.float().std())
        schedule = noise_schedule()
        alphas = schedule.alphas_cumprod
        self._signal, self._noise = alphas.sqrt(), (1 - alphas).sqrt()
        ratio = alphas / (1 - alphas)
        # The weight of v's error, which is ratio + 1 times the picture's. Timesteps of almost pure
        # noise count in full, because there only the caption tells what to paint.
        self._weights = (ratio + 1).clamp(max=_WEIGHT_MOST) / (ratio + 1)

    def begin_with(self, reading: Mapping[str, Any]) -> None:
        """Load the text encoder of a `ReadingTask` checkpoint, and aim the UNet at its sketches."""
        encoder, head = taught(reading)
        self.network.text_encoder.load_state_dict(encoder)
        unet, numbers = self.network.unet, reading["facts"]["numbers"]
        batch = self.batch(0, 0, _LOOKED_AT)
        places = slice(numbers, numbers + PATCHES)
        look_at_patches(unet, batch["noisy"], batch["timesteps"], places, LOUD)
        with torch.no_grad():
            for layer in cross_attentions(unet).values():
                # The map from the encoder's states to tokens is linear too, so one map does both.
                for projection in (layer.to_k, layer.to_v):
                    projection.weight.copy_(projection.weight @ head)

    def batch(self, step: int, rank: int, count: int) -> Batch:
        """Return latents with their noise, timesteps and captions."""
        random = np.random.default_rng([self._seed, 3, step, rank])
        generator = step_generator(self._seed, step, rank)
        numbers = self._captions.draw(len(self._latents), random, count, pairs=_PAIRS)
        latents = self._latents[torch.tensor(numbers)].float() * self.scale
        # A timestep is drawn with a probability in proportion to its size, because captions are
        # learnt where there is much noise. With uniform timesteps the error at timestep 980 was
        # still two fifths above the known optimum, when at 400 and below a wrong caption made
        # hardly a difference.
        share = torch.rand(count, generator=generator).sqrt()
        timesteps = (share * len(self._weights)).long().clamp(max=len(self._weights) - 1)
        noise = torch.randn(latents.shape, generator=generator)
        begins = torch.rand(count, generator=generator) < _BEGINNINGS
        timesteps[begins] = len(self._weights) - 1
        captions = self._captions.describe(numbers, random, empty=_EMPTY_PROMPTS)
        signal_share = self._signal[timesteps][:, None, None, None]
        noise_share = self._noise[timesteps][:, None, None, None]
        noisy = signal_share * latents + noise_share * noise
        return {
            "noisy": torch.where(begins[:, None, None, None], noise, noisy),
            "velocity": signal_share * noise - noise_share * latents,
            "timesteps": timesteps,
            "weights": self._weights[timesteps],
            "ids": self._captions.ids([said.text for said in captions]),
        }

    def loss(
        self, network: nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Return the weighted squared error of v; `error` is the same without weights."""
        noisy = batch["noisy"].contiguous(memory_format=torch.channels_last)
        predicted = network(noisy, batch["timesteps"], batch["ids"])
        errors = (predicted - batch["velocity"]).square().mean((1, 2, 3))
        loss = (errors * batch["weights"]).mean()
        return loss, {"loss": loss, "error": errors.mean()}

    def facts(self) -> Mapping[str, Any]:
        """Return the facts that the engine needs, and the shape of the networks."""
        return {"shape": asdict(self._shape), "scale": self.scale, "scenes": len(self._latents)}
