"""Z-Image and Z-Image-Turbo: a transformer over one sequence of image and text, by flow matching.

The paper: https://arxiv.org/abs/2511.22699.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from diffusers.loaders.lora_pipeline import ZImageLoraLoaderMixin
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Model

from ..catalog.files import ModelFiles
from ..catalog.profile import ModelProfile
from ..schedulers.shift import shift_of
from ..values.request import Told
from .adapters.adaptable import Adaptable
from .adapters.conversion import convert_transformer
from .autoencoder_kl import WithAutoencoderKL
from .defaults import FamilyDefaults
from .family import Conditioning, Predict
from .networks.building import Make, load_network, of_diffusers
from .networks.placement import settle
from .text import qwen3
from .text.tokenizing import QWEN, load_tokenizer
from .text.tokens import TokenizedPrompt

_TEXT: Final = "text"
_COUNT: Final = "tokens"
# The text encoder's layer whose states the transformer reads.
_LAYER: Final = -2
# The transformer reads patches of 2 x 2 latents, and texts of a multiple of 32 tokens.
_PATCH: Final = 2
_BUCKET: Final = 32
# The scheduler counts noise from 1000 down to 0, the transformer from 0 up to 1.
_TIMESTEPS: Final = 1000

NETWORKS: Final[Mapping[str, Make]] = {
    "text_encoder": qwen3.text_encoder,
    "transformer": of_diffusers(ZImageTransformer2DModel),
    "vae": of_diffusers(AutoencoderKL),
}
"""What makes the network of each part from the part's config."""

VECTOR_LAYERS: Final = ("t_embedder.", "adaLN_modulation.")
"""Parts of the names of the transformer's layers that get one vector a row: the timestep's."""


@dataclass(frozen=True)
class ZImage(WithAutoencoderKL, Adaptable, FamilyDefaults):
    """A loaded Z-Image; see `generation.models.family.Model`.

    The transformer is told of a text by the states before the encoder's last layer. A text has the
    number of tokens that it has: `encode` pads its states to a multiple of 32, and gives the number
    beside them. The transformer puts a learned token where the text is padded.
    """

    ADAPTABLE = ("transformer",)

    tokenizer: Qwen2Tokenizer = field(repr=False)
    text_encoder: Qwen3Model = field(repr=False)
    transformer: ZImageTransformer2DModel = field(repr=False)
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
        """Return the model; `compiled` changes nothing about it.

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
        """Return float32: the steps of flow matching are too small for half precision."""
        return torch.float32

    def schedule(self, width: int, height: int, steps: int) -> Mapping[str, Any]:
        """Return the noise levels before the shift, and the shift `mu` of a picture's size.

        The levels are `get_default_z_image_sigmas` of diffusers' pipeline.
        """
        edge = _PATCH * self.pixels_per_latent
        return {
            "sigmas": torch.linspace(1.0, 1 / steps, steps).tolist(),
            "mu": shift_of((width // edge) * (height // edge), self.scheduler_config),
        }

    def tokenize(self, text: Told) -> TokenizedPrompt:
        """Return the tokens of a text in a chat, and what of the text the model does not read."""
        limit = self.profile.token_limit
        return qwen3.tokenize(self.tokenizer, text.text, limit, thinking=True)

    def sample_tokens(self) -> tuple[int, ...]:
        """Return the tokens of some text, to measure what `encode` takes."""
        return self.tokenize(Told("a cat")).ids

    def encode(self, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return for each text its states [1, padded tokens, width] and their number [1, 1]."""
        padding = self.tokenizer.pad_token_id
        found = qwen3.hidden_states(self.text_encoder, prompts, (_LAYER,), padding_id=padding)
        # The numbers stay on the CPU, where the transformer's call is put together.
        counts = torch.split(found.is_read.sum(dim=1, keepdim=True), 1)
        return [
            Conditioning({_TEXT: _padded(states[:, : int(count)]), _COUNT: count})
            for states, count in zip(torch.split(found.layers[0], 1), counts, strict=True)
        ]

    def convert_lora(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a LoRA's tensors by the names of diffusers' layers."""
        return convert_transformer(tensors, ZImageLoraLoaderMixin)

    def guide(
        self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return `c + (s - 1) (c - u)`, as the pipeline computes classifier-free guidance.

        It is what `u + s (c - u)` is, but for the last bits. The pipeline's scale is `s - 1`.
        """
        return conditional + (scale - 1.0) * (conditional - unconditional)

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the velocity from picture to noise for each row, in float32."""
        return self._predict(self.transformer, latents, timesteps, conditioning)

    def compiled(self) -> Predict:
        """Return `predict` with a transformer whose blocks are compiled at their first call."""
        return partial(self._predict, _compiled(self.transformer))

    def _predict(
        self,
        transformer: Any,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        counts = conditioning.tensors[_COUNT].flatten().tolist()
        padded = zip(conditioning.tensors[_TEXT], counts, strict=True)
        texts = [states[:count] for states, count in padded]
        # The transformer takes pictures of several frames.
        rows = latents.to(self.dtype).unsqueeze(2).unbind()
        times = (_TIMESTEPS - timesteps.to(self.device)) / _TIMESTEPS
        velocities = transformer(list(rows), times, texts, return_dict=False)[0]
        # The transformer was trained on the velocity from noise to picture.
        return -torch.stack(velocities).squeeze(2).float()


def _padded(states: torch.Tensor) -> torch.Tensor:
    """Return the states [1, tokens, width] of a text with zeros up to a multiple of 32 tokens."""
    # A tensor of its own: a part of the encoder's result would keep all of the result in memory.
    _, count, width = states.shape
    padded = states.new_zeros((1, count + -count % _BUCKET, width))
    padded[:, :count] = states
    return padded


def _compiled(transformer: Any) -> Any:
    """Return a transformer with the same weights whose blocks are compiled.

    What surrounds the blocks takes lists of tensors, for which it would be compiled at each length
    of a text. The length of the sequence is left open: otherwise the blocks would be compiled
    again for each padded length, and the bits would depend on what was made before.
    """
    other = copy.copy(transformer)
    other._modules = dict(transformer._modules)
    for name in ("noise_refiner", "context_refiner", "layers"):
        blocks: list[Any] = [
            torch.compile(block, dynamic=True) for block in getattr(transformer, name)
        ]
        other._modules[name] = nn.ModuleList(blocks)
    return other
