"""Stable Diffusion XL and its descendants: two text encoders, one UNet, one autoencoder.

The paper: Podell et al. 2023, https://arxiv.org/abs/2307.01952.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..catalog.files import INDEX, ModelFiles, read_config
from ..catalog.profile import ModelProfile
from ..values.request import Told
from .family import Conditioning
from .networks.building import Make, of_diffusers
from .text.clip import projected_text_encoder, text_encoder
from .text.inversions import extended
from .text.tokenizing import load_tokenizer
from .text.tokens import TokenizedPrompt, tokenize
from .unet import WithUNet, load_networks

_TEXT: Final = "text"
_POOLED: Final = "pooled"
_ENCODERS: Final = ("text_encoder", "text_encoder_2")
_TOKENIZERS: Final = ("tokenizer", "tokenizer_2")
# The last layer of a text encoder is tuned to its own task, so the states before it are read.
_LAYER: Final = -2

NETWORKS: Final[Mapping[str, Make]] = {
    "text_encoder": text_encoder,
    "text_encoder_2": projected_text_encoder,
    "unet": of_diffusers(UNet2DConditionModel),
    "vae": of_diffusers(AutoencoderKL),
}
"""What makes the network of each part from the part's config."""


@dataclass(frozen=True)
class StableDiffusionXL(WithUNet):
    """A loaded model of Stable Diffusion XL; see `generation.models.family.Model`.

    The UNet is told of a text by the states of both encoders, side by side, and by the second
    encoder's vector for the whole text. The UNet is also told of the size of the picture. With
    `zeros_for_nothing` an empty text is all zeros.
    """

    ADAPTABLE = ("unet", "text_encoder", "text_encoder_2")

    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer] = field(repr=False)
    text_encoder: CLIPTextModel = field(repr=False)
    text_encoder_2: CLIPTextModelWithProjection = field(repr=False)
    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    scheduler_config: Mapping[str, Any] = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    profile: ModelProfile
    weights_sha256: str
    zeros_for_nothing: bool

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
        folder = profile.folder
        dtypes = dict.fromkeys(NETWORKS, dtype)
        # The autoencoder of the first release overflows in float16.
        if dtype == torch.float16 and read_config(folder, "vae/config.json").get("force_upcast", 1):
            dtypes["vae"] = torch.float32
        networks = load_networks(
            profile,
            files,
            NETWORKS,
            device=device,
            dtypes=dtypes,
            compiled=compiled,
            vector_layers={"text_encoder_2": ("text_projection",)},
        )
        first, second = (
            load_tokenizer(folder, files.configs, networks[encoder].config.vocab_size, part=part)
            for part, encoder in zip(_TOKENIZERS, _ENCODERS, strict=True)
        )
        zeros = read_config(folder, INDEX).get("force_zeros_for_empty_prompt", True)
        return cls(
            tokenizers=(first, second),
            **networks,
            scheduler_config=profile.scheduler_config,
            device=device,
            dtype=dtype,
            profile=profile,
            weights_sha256=weights_sha256,
            zeros_for_nothing=bool(zeros),
        )

    def tokenize(self, text: Told) -> TokenizedPrompt:
        """Return the tokens for the first encoder, then those for the second.

        An empty text has no tokens where the UNet is told zeros of it.
        """
        if self.zeros_for_nothing and not text.text:
            return TokenizedPrompt((), "")
        first, second = (
            tokenize(
                tokenizer,
                text.text,
                self.profile.token_limit,
                self.profile.prompt_limit,
                keeps_unknown=text.keeps_unknown,
            )
            for tokenizer in self.tokenizers
        )
        return TokenizedPrompt((*first.ids, *second.ids), first.unread)

    @property
    def inversion_widths(self) -> Mapping[str, int]:
        """Return the width of a token of each text encoder."""
        return {name: getattr(self, name).config.hidden_size for name in _ENCODERS}

    def with_inversions(self, inversions: Sequence[Mapping[str, torch.Tensor]]) -> Self:
        """Return a model whose text encoders know the vectors of inversions too."""
        pairs = [
            extended(tokenizer, getattr(self, name), [own[name] for own in inversions])
            for tokenizer, name in zip(self.tokenizers, _ENCODERS, strict=True)
        ]
        (first, encoder), (second, encoder_2) = pairs
        tokenizers = (first, second)
        return replace(self, tokenizers=tokenizers, text_encoder=encoder, text_encoder_2=encoder_2)

    def sample_tokens(self) -> tuple[int, ...]:
        """Return the tokens of some text, to measure what `encode` takes."""
        vocab_size = min(tokenizer.vocab_size for tokenizer in self.tokenizers)
        tokens = torch.arange(2 * self.profile.token_limit).remainder(vocab_size)
        return tuple(tokens.tolist())

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return of each text the states [1, tokens, width] and the pooled vector [1, width]."""
        if not prompts[0]:
            return [self._nothing()] * len(prompts)
        ids = torch.tensor(prompts, device=self.device)
        limit = self.profile.token_limit
        first = self.text_encoder(ids[:, :limit], output_hidden_states=True)
        second = self.text_encoder_2(ids[:, limit:], output_hidden_states=True)
        states = [first.hidden_states[_LAYER], second.hidden_states[_LAYER]]
        return Conditioning(
            {
                _TEXT: torch.cat(states, dim=-1).to(self.dtype),
                _POOLED: second.text_embeds.to(self.dtype),
            }
        ).split()

    def _nothing(self) -> Conditioning:
        encoders = (self.text_encoder.config, self.text_encoder_2.config)
        width = sum(config.hidden_size for config in encoders)
        shapes = {
            _TEXT: (1, self.profile.token_limit, width),
            _POOLED: (1, self.text_encoder_2.config.projection_dim),
        }
        return Conditioning(
            {
                name: torch.zeros(shape, dtype=self.dtype, device=self.device)
                for name, shape in shapes.items()
            }
        )

    def _conditions(self, latents: torch.Tensor, conditioning: Conditioning) -> dict[str, Any]:
        pixels = self.pixels_per_latent
        size = (latents.shape[2] * pixels, latents.shape[3] * pixels)
        # The size of an original picture, where it was cropped, and the size that is wanted.
        ids = torch.tensor([(*size, 0, 0, *size)], dtype=self.dtype, device=self.device)
        return {
            "encoder_hidden_states": conditioning.tensors[_TEXT],
            "added_cond_kwargs": {
                "text_embeds": conditioning.tensors[_POOLED],
                "time_ids": ids.expand(len(latents), -1),
            },
        }
