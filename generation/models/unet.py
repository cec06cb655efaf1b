"""What models with diffusers' `UNet2DConditionModel` and `AutoencoderKL` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel

from ..catalog.files import ModelFiles
from ..catalog.profile import ModelProfile
from .adapters.adaptable import Adaptable
from .adapters.conversion import convert_unet
from .autoencoder_kl import WithAutoencoderKL
from .defaults import FamilyDefaults
from .family import Conditioning, Predict
from .guidance import embed_scale, guide
from .networks.building import Make, load_network
from .networks.compiling import compile_network
from .networks.deterministic import UNET_VECTOR_LAYERS
from .networks.placement import settle

_CONVOLUTIONAL: Final = ("unet", "vae")

_GUIDANCE: Final = "guidance"


class WithUNet(WithAutoencoderKL, Adaptable, FamilyDefaults):
    """The part of `generation.models.family.Model` that a UNet does."""

    unet: UNet2DConditionModel
    device: torch.device
    dtype: torch.dtype
    weights_sha256: str

    @property
    def latents_dtype(self) -> torch.dtype:
        """Return the type of latents between the steps: that of the weights."""
        return self.dtype

    def schedule(self, width: int, height: int, steps: int) -> Mapping[str, Any]:
        """Return nothing: the schedule is the same for pictures of all sizes."""
        del width, height, steps
        return {}

    def embed_guidance(self, scale: float) -> Mapping[str, torch.Tensor]:
        """Return the embedding of a guidance scale for a UNet that is distilled with guidance."""
        width = self.unet.config.time_cond_proj_dim
        if width is None:
            return {}
        # The pipelines of diffusers count from 0, as the paper on latent consistency models does.
        embedding = embed_scale(torch.tensor([scale - 1.0]), width)
        return {_GUIDANCE: embedding.to(device=self.device, dtype=self.dtype)}

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the UNet's prediction for each row."""
        return self._predict(self.unet, latents, timesteps, conditioning)

    def convert_lora(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a LoRA's tensors by the names of diffusers' layers."""
        return convert_unet(tensors, self.unet.config)

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
            timestep_cond=conditioning.tensors.get(_GUIDANCE),
            **self._conditions(latents, conditioning),
            return_dict=False,
        )[0]
        return prediction

    @abstractmethod
    def _conditions(self, latents: torch.Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Return the arguments of the UNet beside latents and timesteps."""


def load_networks(
    profile: ModelProfile,
    files: ModelFiles,
    makes: Mapping[str, Make],
    *,
    device: torch.device,
    dtypes: Mapping[str, torch.dtype],
    compiled: bool,
    vector_layers: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the networks that `makes` makes, each of its type in `dtypes`, for `device`.

    If the UNet will be compiled, it keeps plain convolutions. `vector_layers` are those of parts
    beside the UNet and the autoencoder, by part.

    Raises:
        ModelError: a file is broken, or the memory of the device is too small.
    """
    networks = {
        part: load_network(profile, part, make, files, dtypes[part]) for part, make in makes.items()
    }
    settle(
        networks,
        profile,
        device,
        vector_layers={**dict.fromkeys(_CONVOLUTIONAL, UNET_VECTOR_LAYERS), **vector_layers},
        unpacked=("unet",) if compiled else (),
    )
    return networks
