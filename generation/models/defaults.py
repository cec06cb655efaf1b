"""What most families do alike; a family with more to say overrides it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch

from .family import Conditioning


class FamilyDefaults:
    """Methods of `generation.models.family.Model` that are the same in most families."""

    dtype: torch.dtype
    weights_sha256: str

    def batch_key(self, latents: torch.Size, conditioning: Conditioning) -> Hashable:
        """Return the weights in use, and the shapes of the latents and of the conditioning."""
        return (self.weights_sha256, self.dtype, *latents[1:], *conditioning.shape)

    def refer(self, pictures: Sequence[torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return nothing: the family reads no references, and the engine refuses them."""
        del pictures
        return {}

    def embed_guidance(self, scale: float) -> Mapping[str, torch.Tensor]:
        """Return nothing: the network reads no guidance scale."""
        del scale
        return {}
