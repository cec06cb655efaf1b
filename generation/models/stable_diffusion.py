"""Stable Diffusion 1 and 2: one text encoder, one UNet, one autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..catalog.files import ModelFiles
from ..catalog.profile import ModelProfile
from ..values.request import Told
from .family import Conditioning
from .networks.building import Make, of_diffusers
from .text.clip import text_encoder
from .text.inversions import extended
from .text.tokenizing import load_tokenizer
from .text.tokens import TokenizedPrompt, tokenize
from .unet import WithUNet, load_networks

_TEXT: Final = "text"

NETWORKS: Final[Mapping[str, Make]] = {
    "text_encoder": text_encoder,
    "unet": of_diffusers(UNet2DConditionModel),
    "vae": of_diffusers(AutoencoderKL),
}
"""What makes the network of each part from the part's config."""


@dataclass(frozen=True)
class StableDiffusion(WithUNet):
    """A loaded model of Stable Diffusion 1 or 2; see `generation.models.family.Model`.

    The text encoder's last hidden states are all that the UNet is told of a text.
    """

    ADAPTABLE = ("unet", "text_encoder")

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
        networks = load_networks(
            profile,
            files,
            NETWORKS,
            device=device,
            dtypes=dict.fromkeys(NETWORKS, dtype),
            compiled=compiled,
        )
        vocab_size = networks["text_encoder"].config.vocab_size
        tokenizer = load_tokenizer(profile.folder, files.configs, vocab_size)
        return cls(
            tokenizer=tokenizer,
            **networks,
            scheduler_config=profile.scheduler_config,
            device=device,
            dtype=dtype,
            profile=profile,
            weights_sha256=weights_sha256,
        )

    def tokenize(self, text: Told) -> TokenizedPrompt:
        """Return the tokens of a text, and what of the text the model does not read."""
        return tokenize(
            self.tokenizer,
            text.text,
            self.profile.token_limit,
            self.profile.prompt_limit,
            keeps_unknown=text.keeps_unknown,
        )

    @property
    def inversion_widths(self) -> Mapping[str, int]:
        """Return the width of a token of the text encoder."""
        return {"text_encoder": self.text_encoder.config.hidden_size}

    def with_inversions(self, inversions: Sequence[Mapping[str, torch.Tensor]]) -> Self:
        """Return a model whose text encoder knows the vectors of inversions too."""
        vectors = [own["text_encoder"] for own in inversions]
        tokenizer, encoder = extended(self.tokenizer, self.text_encoder, vectors)
        return replace(self, tokenizer=tokenizer, text_encoder=encoder)

    def sample_tokens(self) -> tuple[int, ...]:
        """Return the tokens of some text, to measure what `encode` takes."""
        tokens = torch.arange(self.profile.token_limit).remainder(self.tokenizer.vocab_size)
        return tuple(tokens.tolist())

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return the last hidden states of each text, [1, tokens, width]."""
        ids = torch.tensor(prompts, device=self.device)
        hidden: torch.Tensor = self.text_encoder(ids)[0]
        return Conditioning({_TEXT: hidden.to(self.dtype)}).split()

    def _conditions(self, latents: torch.Tensor, conditioning: Conditioning) -> dict[str, Any]:
        del latents
        return {"encoder_hidden_states": conditioning.tensors[_TEXT]}
