"""Stable Diffusion 1 and 2: one text encoder, one UNet, one autoencoder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..catalog.files import ModelFiles, read_config
from ..catalog.parts import find_tensors
from ..catalog.profile import ModelProfile
from ..values.request import Told
from .family import Conditioning, Posterior, Predict
from .networks import deterministic
from .networks.building import build, made_from
from .networks.placement import place
from .text.tokenizing import load_tokenizer
from .text.tokens import TokenizedPrompt, tokenize

_TEXT: Final = "text"
# Keys of a text encoder's config that change what it computes or that this module asks for.
_TEXT_KEYS: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def _text_encoder(config: Mapping[str, Any]) -> Any:
    return CLIPTextModel(CLIPTextConfig(**{k: config[k] for k in _TEXT_KEYS if k in config}))


def _of_diffusers(kind: Any) -> Callable[[Mapping[str, Any]], Any]:
    # The library gets only those keys of a config that its constructor knows.
    known = inspect.signature(kind.__init__).parameters.keys()
    return lambda config: kind.from_config({k: v for k, v in config.items() if k in known})


NETWORKS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "text_encoder": _text_encoder,
    "unet": _of_diffusers(UNet2DConditionModel),
    "vae": _of_diffusers(AutoencoderKL),
}
"""What makes the network of each part from the part's config."""


@dataclass(frozen=True)
class StableDiffusion:
    """A loaded model of Stable Diffusion 1 or 2; see `generation.models.family.Model`.

    The text encoder's last hidden states are all that the UNet is told of a text.
    """

    tokenizer: CLIPTokenizer = field(repr=False)
    text_encoder: CLIPTextModel = field(repr=False)
    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
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
        """Return the model; if it will be compiled, its UNet keeps plain convolutions.

        Raises:
            ModelError: a file is broken, or the memory of the device is too small.
        """
        networks = {part: _load_network(profile.folder, part, files, dtype) for part in NETWORKS}
        vocab_size = networks["text_encoder"].config.vocab_size
        tokenizer = load_tokenizer(profile.folder, files.configs, vocab_size)
        place(networks, device)
        for part in ("unet", "vae"):
            # A constructor of torch accepts a padding or stride that is no number; this does not.
            with made_from(part, profile.folder / part / "config.json"):
                deterministic.prepare(networks[part], pack=part == "vae" or not compiled)
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
    def pixels_per_latent(self) -> int:
        """Return how many pixels one latent stands for along an edge."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def tile_multiple(self) -> int:
        """Return the number of pixels of which the edge of a decoder's tile is a multiple."""
        # The tiles overlap by a quarter, which has to be whole latents.
        return 4 * self.pixels_per_latent

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the shape of the latents of one picture, [1, channels, height, width]."""
        channels: int = self.vae.config.latent_channels
        return (1, channels, height // self.pixels_per_latent, width // self.pixels_per_latent)

    def batch_key(self, latents: torch.Size, conditioning: Conditioning) -> Hashable:
        """Return the weights in use, the shape of the latents and the lengths of the texts."""
        return (self.weights_sha256, self.dtype, *latents[1:], *conditioning.shape)

    def tokenize(self, text: Told) -> TokenizedPrompt:
        """Return the tokens of a text, and what of the text the model does not read."""
        return tokenize(
            self.tokenizer,
            text.text,
            self.profile.token_limit,
            self.profile.prompt_limit,
            keeps_unknown=text.keeps_unknown,
        )

    def sample_tokens(self) -> tuple[int, ...]:
        """Return the tokens of some text, to measure what `encode` takes."""
        tokens = torch.arange(self.profile.token_limit).remainder(self.tokenizer.vocab_size)
        return tuple(tokens.tolist())

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> Conditioning:
        """Return the last hidden states of texts, [texts, tokens, width]."""
        ids = torch.tensor(prompts, device=self.device)
        hidden: torch.Tensor = self.text_encoder(ids)[0]
        return Conditioning({_TEXT: hidden.to(self.dtype)})

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the UNet's prediction for each row."""
        return self._predict(self.unet, latents, timesteps, conditioning)

    def compiled(self) -> Predict:
        """Return `predict` with a UNet that is compiled for each shape at its first call."""
        if self.device.type == "cpu":
            from torch._inductor import config  # noqa: PLC0415 - it takes a second to import

            # Packs the weights and folds what is constant; it is for inference only.
            config.freezing = True
        return partial(self._predict, torch.compile(self.unet, dynamic=False))

    def _predict(
        self,
        unet: Any,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        prediction: torch.Tensor = unet(
            latents,
            timesteps.to(self.device),
            encoder_hidden_states=conditioning.tensors[_TEXT],
            return_dict=False,
        )[0]
        return prediction

    def posterior(self, picture: torch.Tensor) -> Posterior:
        """Return the encoder's view of a picture [1, 3, height, width] from -1 to 1."""
        encoded = self.vae.encode(picture).latent_dist
        return Posterior(encoded.mean, encoded.std)

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the encoder's latents at the scale of the UNet."""
        scaled: torch.Tensor = self.vae.config.scaling_factor * latents
        return scaled

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures of latents, [rows, 3, height, width] from -1 to 1."""
        unscaled = latents / self.vae.config.scaling_factor
        decoded: torch.Tensor = self.vae.decode(unscaled, return_dict=False)[0]
        return decoded

    def decode_in_tiles(self, latents: torch.Tensor, tile: int) -> torch.Tensor:
        """Return what `decode` does, from overlapping tiles of `tile` pixels."""
        vae = self.vae
        kept = vae.tile_sample_min_size, vae.tile_latent_min_size
        vae.tile_sample_min_size = tile
        vae.tile_latent_min_size = tile // self.pixels_per_latent
        vae.enable_tiling()
        try:
            return self.decode(latents)
        finally:
            vae.disable_tiling()
            vae.tile_sample_min_size, vae.tile_latent_min_size = kept


def _load_network(folder: Path, part: str, files: ModelFiles, dtype: torch.dtype) -> Any:
    weights = files.weights[part]
    places = find_tensors(folder, part, weights)
    config = read_config(folder, f"{part}/config.json")
    return build(NETWORKS[part], part, config, places, folder / weights.names[0], dtype)
