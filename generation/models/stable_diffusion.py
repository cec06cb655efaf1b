"""Stable Diffusion 1 and 2: one text encoder, one UNet, one autoencoder."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..catalog.files import ModelFiles
from ..catalog.profile import ModelProfile
from ..values.request import Told
from .autoencoder_kl import WithAutoencoderKL
from .family import Conditioning, Predict
from .guidance import guide
from .networks import deterministic
from .networks.building import Make, load_network, made_from, of_diffusers
from .networks.compiling import compile_network
from .networks.placement import place
from .text.clip import text_encoder
from .text.tokenizing import load_tokenizer
from .text.tokens import TokenizedPrompt, tokenize

_TEXT: Final = "text"

NETWORKS: Final[Mapping[str, Make]] = {
    "text_encoder": text_encoder,
    "unet": of_diffusers(UNet2DConditionModel),
    "vae": of_diffusers(AutoencoderKL),
}
"""What makes the network of each part from the part's config."""


@dataclass(frozen=True)
class StableDiffusion(WithAutoencoderKL):
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
        networks = {
            part: load_network(profile.folder, part, make, files, dtype)
            for part, make in NETWORKS.items()
        }
        vocab_size = networks["text_encoder"].config.vocab_size
        tokenizer = load_tokenizer(profile.folder, files.configs, vocab_size)
        place(networks, device)
        for part in ("unet", "vae"):
            # A constructor of torch accepts a padding or stride that is no number; this does not.
            with made_from(part, profile.folder / part / "config.json"):
                deterministic.prepare(
                    networks[part],
                    vector_layers=deterministic.UNET_VECTOR_LAYERS,
                    pack=part == "vae" or not compiled,
                )
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

    def schedule(self, width: int, height: int, steps: int) -> Mapping[str, Any]:
        """Return nothing: the schedule is the same for pictures of all sizes."""
        del width, height, steps
        return {}

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

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return the last hidden states of each text, [1, tokens, width]."""
        ids = torch.tensor(prompts, device=self.device)
        hidden: torch.Tensor = self.text_encoder(ids)[0]
        return Conditioning({_TEXT: hidden.to(self.dtype)}).split()

    def refer(self, pictures: Sequence[torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return nothing: the family reads no references, and the engine refuses them."""
        del pictures
        return {}

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the UNet's prediction for each row."""
        return self._predict(self.unet, latents, timesteps, conditioning)

    def guide(
        self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the guided prediction, as in Ho and Salimans."""
        return guide(unconditional, conditional, scale)

    def compiled(self) -> Predict:
        """Return `predict` with a UNet that is compiled for each shape at its first call."""
        return partial(self._predict, compile_network(self.unet, self.device))

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
