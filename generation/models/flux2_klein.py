"""FLUX.2 klein: a transformer over text, picture and reference pictures, by flow matching.

The model: https://bfl.ai/blog/flux2-klein-towards-interactive-visual-intelligence.
The reference for every formula is `Flux2KleinPipeline` of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from diffusers.loaders.lora_pipeline import Flux2LoraLoaderMixin
from torch import nn
from torch.nn import functional
from transformers import Qwen2Tokenizer, Qwen3Model

from ..catalog.files import ModelFiles
from ..catalog.profile import ModelProfile
from ..values.request import Told
from .adapters.adaptable import Adaptable
from .adapters.conversion import convert_transformer
from .defaults import FamilyDefaults
from .family import Conditioning, Posterior, Predict
from .guidance import guide
from .networks.building import Make, load_network, of_diffusers
from .networks.compiling import compile_network
from .networks.placement import settle
from .text import qwen3
from .text.tokenizing import QWEN, load_tokenizer
from .text.tokens import TokenizedPrompt

_TEXT: Final = "text"
# The layers of the text encoder after which the transformer reads the states.
_LAYERS: Final = (9, 18, 27)
_REFERENCE: Final = "reference_"
# The transformer sees a patch of 2 x 2 latents of the autoencoder as one token.
_PATCH: Final = 2
# Where a token lies in time: the picture at 0, and references at 10, 20 and so on.
_TIME_BETWEEN_PICTURES: Final = 10
_TIMESTEPS: Final = 1000


class Statistics(nn.Module):
    """Mean and variance of each channel of patches, from the training of the autoencoder.

    A batch normalisation holds the same, and a number of batches that not every file has.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps = eps


def _text_encoder(config: Mapping[str, Any]) -> Any:
    return qwen3.text_encoder(config, depth=max(_LAYERS))


def _autoencoder(config: Mapping[str, Any]) -> Any:
    vae = of_diffusers(AutoencoderKLFlux2)(config)
    vae.bn = Statistics(vae.bn.num_features, vae.bn.eps)
    return vae


NETWORKS: Final[Mapping[str, Make]] = {
    "text_encoder": _text_encoder,
    "transformer": of_diffusers(Flux2Transformer2DModel),
    "vae": _autoencoder,
}
"""What makes the network of each part from the part's config."""

VECTOR_LAYERS: Final = ("time_guidance_embed.", "stream_modulation", "norm_out.")
"""Parts of the names of the transformer's layers that get one vector a row: the timestep's."""


@dataclass(frozen=True)
class Flux2Klein(Adaptable, FamilyDefaults):
    """A loaded FLUX.2 klein; see `generation.models.family.Model`.

    Latents are patches of 2 x 2 latents of the autoencoder, at the scale of its batch
    normalisation. All texts have 512 tokens. The transformer is told of a text by the states after
    three of the encoder's layers, side by side, and of references by their latents.
    """

    ADAPTABLE = ("transformer",)

    tokenizer: Qwen2Tokenizer = field(repr=False)
    text_encoder: Qwen3Model = field(repr=False)
    transformer: Flux2Transformer2DModel = field(repr=False)
    vae: AutoencoderKLFlux2 = field(repr=False)
    scheduler_config: Mapping[str, Any] = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    profile: ModelProfile
    weights_sha256: str

    @classmethod
    def load(
        cls,
        profile: ModelProfile,
        files: ModelFiles,
        *,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool,
        weights_sha256: str,
    ) -> Self:
        """Return the model; `compiled` changes nothing about its networks.

        Raises:
            ModelError: a file is broken, or the memory of the device is too small.
        """
        del compiled
        networks = {
            part: load_network(profile, part, make, files, dtype) for part, make in NETWORKS.items()
        }
        vocab_size = networks["text_encoder"].config.vocab_size
        tokenizer = load_tokenizer(profile.folder, files.configs, vocab_size, kind=QWEN)
        prepared = dict.fromkeys(("transformer", "vae"), VECTOR_LAYERS)
        settle(networks, profile, device, vector_layers=prepared)
        return cls(
            tokenizer=tokenizer,
            **networks,
            scheduler_config=profile.scheduler_config,
            device=device,
            dtype=dtype,
            profile=profile,
            weights_sha256=weights_sha256,
        )

    @property
    def latents_dtype(self) -> torch.dtype:
        """Return the type of latents between the steps: that of the weights."""
        return self.dtype

    @property
    def pixels_per_latent(self) -> int:
        """Return how many pixels one latent stands for along an edge."""
        return _PATCH * self._pixels_per_vae_latent

    @property
    def _pixels_per_vae_latent(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def tile_multiple(self) -> int:
        """Return the number of pixels of which the edge of a decoder's tile is a multiple."""
        # The tiles overlap by a quarter, which has to be whole latents of the autoencoder.
        return 4 * self._pixels_per_vae_latent

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the shape of the latents of one picture, [1, channels, height, width]."""
        channels = self.vae.config.latent_channels * _PATCH**2
        return (1, channels, height // self.pixels_per_latent, width // self.pixels_per_latent)

    def schedule(self, width: int, height: int, steps: int) -> Mapping[str, Any]:
        """Return the noise levels before the shift, and the shift `mu` for a picture's size."""
        tokens = (width // self.pixels_per_latent) * (height // self.pixels_per_latent)
        levels = np.linspace(1.0, 1 / steps, steps)
        return {"sigmas": levels.tolist(), "mu": _shift(tokens, steps)}

    def tokenize(self, text: Told) -> TokenizedPrompt:
        """Return the tokens of a text in a chat, and what of the text the model does not read."""
        limit = self.profile.token_limit
        return qwen3.tokenize(self.tokenizer, text.text, limit, thinking=False)

    def sample_tokens(self) -> tuple[int, ...]:
        """Return the tokens of some text, to measure what `encode` takes."""
        return self.tokenize(Told("a cat")).ids

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return the states of each text after three layers, [1, tokens, 3 * width]."""
        # One text of 512 tokens keeps a device busy. Without padding in a call of several texts,
        # transformers would choose another kernel of attention, and with it other bits.
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: tuple[int, ...]) -> Conditioning:
        padding = self.tokenizer.pad_token_id
        found = qwen3.hidden_states(self.text_encoder, [prompt], _LAYERS, padding_id=padding)
        return Conditioning({_TEXT: torch.cat([*found.layers], dim=2).to(self.dtype)})

    def refer(self, pictures: Sequence[torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the latents of each reference, [1, channels, height, width], by names."""
        return {
            f"{_REFERENCE}{number}": self.scale(self.posterior(picture).mean)
            for number, picture in enumerate(pictures)
        }

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the velocity from picture to noise for each row."""
        return self._predict(self.transformer, latents, timesteps, conditioning)

    def convert_lora(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a LoRA's tensors by the names of diffusers' layers."""
        return convert_transformer(tensors, Flux2LoraLoaderMixin)

    def guide(
        self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the guided prediction, as in Ho and Salimans."""
        return guide(unconditional, conditional, scale)

    def compiled(self) -> Predict:
        """Return `predict` with a transformer that is compiled for each shape at its first call."""
        return partial(self._predict, compile_network(self.transformer, self.device))

    def _predict(
        self,
        transformer: Any,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        text = conditioning.tensors[_TEXT]
        # The shapes of all rows agree, so their tokens lie at the same places.
        pictures = [latents, *_references(conditioning)]
        places = [
            _places(picture, time * _TIME_BETWEEN_PICTURES) for time, picture in enumerate(pictures)
        ]
        words = torch.arange(text.shape[1], device=self.device)
        velocity: torch.Tensor = transformer(
            hidden_states=torch.cat([_tokens(picture) for picture in pictures], dim=1),
            timestep=timesteps.to(self.device, latents.dtype) / _TIMESTEPS,
            encoder_hidden_states=text,
            txt_ids=functional.pad(words.unsqueeze(1), (3, 0)),
            img_ids=torch.cat(places),
            return_dict=False,
        )[0]
        own = velocity[:, : latents.shape[2] * latents.shape[3]]
        return own.transpose(1, 2).reshape(latents.shape)

    def posterior(self, picture: torch.Tensor) -> Posterior:
        """Return the encoder's latents of a picture [1, 3, height, width]; nothing is drawn."""
        return Posterior(self.vae.encode(picture.to(self.vae.dtype)).latent_dist.mode(), None)

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the encoder's latents as patches, at the scale of the transformer."""
        mean, deviation = self._statistics(latents)
        return (functional.pixel_unshuffle(latents, _PATCH) - mean) / deviation

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures of latents, [rows, 3, height, width] from -1 to 1."""
        mean, deviation = self._statistics(latents)
        unscaled = functional.pixel_shuffle(latents * deviation + mean, _PATCH)
        decoded: torch.Tensor = self.vae.decode(unscaled.to(self.vae.dtype), return_dict=False)[0]
        return decoded

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and deviation of each channel of patches, [1, channels, 1, 1]."""
        known = self.vae.bn
        mean = known.running_mean.reshape(1, -1, 1, 1)
        deviation = torch.sqrt(known.running_var.reshape(1, -1, 1, 1) + known.eps)
        return mean.to(latents), deviation.to(latents)

    def decode_in_tiles(self, latents: torch.Tensor, tile: int) -> torch.Tensor:
        """Return what `decode` does, from overlapping tiles of `tile` pixels."""
        vae = self.vae
        kept = vae.tile_sample_min_size, vae.tile_latent_min_size
        vae.tile_sample_min_size = tile
        vae.tile_latent_min_size = tile // self._pixels_per_vae_latent
        vae.enable_tiling()
        try:
            return self.decode(latents)
        finally:
            vae.disable_tiling()
            vae.tile_sample_min_size, vae.tile_latent_min_size = kept


def _shift(tokens: int, steps: int) -> float:
    """Return how far noise levels move towards noise: `compute_empirical_mu` of the pipeline.

    The shift is linear in the number of a picture's tokens, with one line for 10 steps and one for
    200. Between these it is linear in the steps; large pictures have the line for 200.
    """
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:  # noqa: PLR2004 - as in the pipeline
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    slope = (many - few) / 190.0
    return slope * steps + (many - 200.0 * slope)


def _references(conditioning: Conditioning) -> list[torch.Tensor]:
    names = sorted(name for name in conditioning.tensors if name.startswith(_REFERENCE))
    return [conditioning.tensors[name] for name in names]


def _tokens(latents: torch.Tensor) -> torch.Tensor:
    """Return latents [rows, channels, height, width] as tokens [rows, places, channels]."""
    return latents.flatten(2).transpose(1, 2)


def _places(latents: torch.Tensor, time: int) -> torch.Tensor:
    """Return where the tokens of one picture lie, [places, 4]: time, row, column and 0."""
    height, width = latents.shape[2:]
    device = latents.device
    sides = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    still = torch.full_like(rows, time)
    return torch.stack([still, rows, columns, torch.zeros_like(rows)], dim=-1).flatten(0, 1)
