"""Stable Diffusion 3 and 3.5: a transformer over picture and text, by flow matching.

The paper: Esser et al. 2024, https://arxiv.org/abs/2403.03206.
The reference for every formula is `StableDiffusion3Pipeline` of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.loaders.lora_pipeline import SD3LoraLoaderMixin
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from ..catalog.files import ModelFiles
from ..catalog.profile import ModelProfile
from ..schedulers.shift import shift_of
from ..values.request import Told
from .adapters.adaptable import Adaptable
from .adapters.conversion import convert_transformer
from .autoencoder_kl import WithAutoencoderKL
from .defaults import FamilyDefaults
from .family import Conditioning, Predict
from .guidance import guide
from .networks.building import Make, load_network, of_diffusers
from .networks.compiling import compile_network
from .networks.placement import settle
from .text import t5
from .text.clip import projected_text_encoder
from .text.tokenizing import CLIP, T5, load_tokenizer
from .text.tokens import TokenizedPrompt, tokenize

_TEXT: Final = "text"
_POOLED: Final = "pooled"
# The last layer of CLIP is tuned to its own task, so the states before it are read.
_LAYER: Final = -2
# The tokens of T5's part of a text, which is zeros where a model has no T5.
_T5_TOKENS: Final = 256
_PATCH: Final = 2
_CLIPS: Final = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_T5_ENCODER: Final = "text_encoder_3"
_T5_TOKENIZER: Final = "tokenizer_3"

NETWORKS: Final[Mapping[str, Make]] = {
    "text_encoder": projected_text_encoder,
    "text_encoder_2": projected_text_encoder,
    "text_encoder_3": t5.text_encoder,
    "transformer": of_diffusers(SD3Transformer2DModel),
    "vae": of_diffusers(AutoencoderKL),
}
"""What makes the network of each part from the part's config."""

VECTOR_LAYERS: Final = ("time_text_embed.", "norm1.linear", "norm1_context.linear", "norm_out.")
"""Parts of the names of the transformer's layers that get one vector a row."""


@dataclass(frozen=True)
class StableDiffusion3(WithAutoencoderKL, Adaptable, FamilyDefaults):
    """A loaded Stable Diffusion 3; see `generation.models.family.Model`.

    The transformer is told of a text by the states of both encoders of CLIP side by side, then by
    those of T5, and by the vectors of CLIP for the whole text. `clip_tokens` is the number of
    CLIP's tokens. A model without T5 reads zeros in the place of T5's states.
    """

    ADAPTABLE = ("transformer", "text_encoder", "text_encoder_2")

    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer] = field(repr=False)
    tokenizer_3: T5Tokenizer | None = field(repr=False)
    clip_tokens: int
    text_encoder: CLIPTextModelWithProjection = field(repr=False)
    text_encoder_2: CLIPTextModelWithProjection = field(repr=False)
    transformer: SD3Transformer2DModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    scheduler_config: Mapping[str, Any] = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    profile: ModelProfile
    weights_sha256: str
    text_encoder_3: T5EncoderModel | None = field(repr=False, default=None)

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
        """Return the model; if it will be compiled, its transformer keeps plain convolutions.

        Raises:
            ModelError: a file is broken, or the memory of the device is too small.
        """
        folder = profile.folder
        parts = [part for part in NETWORKS if f"{part}/config.json" in files.configs]
        networks = {
            part: load_network(profile, part, NETWORKS[part], files, dtype) for part in parts
        }

        def read(part: str, encoder: str, kind: Any) -> Any:
            vocab_size = networks[encoder].config.vocab_size
            return load_tokenizer(folder, files.configs, vocab_size, part=part, kind=kind)

        first, second = (read(part, encoder, CLIP) for encoder, part in _CLIPS.items())
        third = read(_T5_TOKENIZER, _T5_ENCODER, T5) if _T5_ENCODER in networks else None
        if third is not None:
            t5.keep_from_overflow(networks[_T5_ENCODER])
        positions: int = networks["text_encoder"].config.max_position_embeddings
        settle(
            networks,
            profile,
            device,
            vector_layers=dict.fromkeys(("transformer", "vae"), VECTOR_LAYERS),
            unpacked=("transformer",) if compiled else (),
        )
        return cls(
            tokenizers=(first, second),
            tokenizer_3=third,
            clip_tokens=int(min(first.model_max_length, positions)),
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
        """Return the shift `mu` of a picture's size, or nothing where the shift is fixed."""
        del steps
        if not self.scheduler_config.get("use_dynamic_shifting"):
            return {}
        edge = _PATCH * self.pixels_per_latent
        return {"mu": shift_of((width // edge) * (height // edge), self.scheduler_config)}

    def tokenize(self, text: Told) -> TokenizedPrompt:
        """Return the tokens for both encoders of CLIP, then those for T5.

        T5 reads longer texts than CLIP, so only what T5 does not read counts as unread.
        """
        first, second = (
            tokenize(tokenizer, text.text, self.clip_tokens, keeps_unknown=text.keeps_unknown)
            for tokenizer in self.tokenizers
        )
        ids = (*first.ids, *second.ids)
        if self.tokenizer_3 is None:
            return TokenizedPrompt(ids, first.unread)
        third = t5.tokenize(self.tokenizer_3, text.text, _T5_TOKENS)
        return TokenizedPrompt((*ids, *third.ids), third.unread)

    def sample_tokens(self) -> tuple[int, ...]:
        """Return the tokens of some text, to measure what `encode` takes."""
        return self.tokenize(Told("a cat")).ids

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return of each text the states [1, tokens, width] and the pooled vectors [1, width]."""
        # One text of T5 keeps a device busy, and a single row has the same bits at any load.
        return [self._encode(torch.tensor([prompt], device=self.device)) for prompt in prompts]

    def _encode(self, ids: torch.Tensor) -> Conditioning:
        limit = self.clip_tokens
        found = [
            encoder(part, output_hidden_states=True)
            for encoder, part in (
                (self.text_encoder, ids[:, :limit]),
                (self.text_encoder_2, ids[:, limit : 2 * limit]),
            )
        ]
        clip = torch.cat([one.hidden_states[_LAYER] for one in found], dim=-1).to(self.dtype)
        width = self.transformer.config.joint_attention_dim
        if self.text_encoder_3 is None:
            long = clip.new_zeros((1, _T5_TOKENS, width))
        else:
            long = t5.states(self.text_encoder_3, ids[:, 2 * limit :]).to(self.dtype)
        padded = functional.pad(clip, (0, width - clip.shape[2]))
        pooled = torch.cat([one.text_embeds for one in found], dim=-1)
        return Conditioning(
            {_TEXT: torch.cat([padded, long], dim=1), _POOLED: pooled.to(self.dtype)}
        )

    def convert_lora(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a LoRA's tensors by the names of diffusers' layers."""
        return convert_transformer(tensors, SD3LoraLoaderMixin)

    def guide(
        self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the guided prediction, as in Ho and Salimans."""
        return guide(unconditional, conditional, scale)

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the velocity from picture to noise for each row."""
        return self._predict(self.transformer, latents, timesteps, conditioning)

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
        velocity: torch.Tensor = transformer(
            hidden_states=latents,
            timestep=timesteps.to(self.device),
            encoder_hidden_states=conditioning.tensors[_TEXT],
            pooled_projections=conditioning.tensors[_POOLED],
            return_dict=False,
        )[0]
        return velocity
