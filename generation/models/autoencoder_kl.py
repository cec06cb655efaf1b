"""What models with diffusers' `AutoencoderKL` have in common: pictures to latents, and back."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from .family import Posterior


class WithAutoencoderKL:
    """The part of `generation.models.family.Model` that an `AutoencoderKL` does.

    The scale of latents is in the autoencoder's config: a factor, or a mean and a deviation of each
    channel besides, or a shift.
    """

    vae: AutoencoderKL

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

    def posterior(self, picture: torch.Tensor) -> Posterior:
        """Return the encoder's view of a picture [1, 3, height, width] from -1 to 1."""
        encoded = self.vae.encode(picture.to(self.vae.dtype)).latent_dist
        return Posterior(encoded.mean, encoded.std)

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the encoder's latents at the scale of the network."""
        config = self.vae.config
        scaled: torch.Tensor
        if (statistics := self._statistics(latents)) is not None:
            mean, deviation = statistics
            scaled = (latents - mean) * config.scaling_factor / deviation
        elif config.shift_factor:
            scaled = (latents - config.shift_factor) * config.scaling_factor
        else:
            scaled = config.scaling_factor * latents
        return scaled

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures of latents, [rows, 3, height, width] from -1 to 1."""
        config = self.vae.config
        latents = latents.to(self.vae.dtype)
        if (statistics := self._statistics(latents)) is not None:
            mean, deviation = statistics
            unscaled = latents * deviation / config.scaling_factor + mean
        elif config.shift_factor:
            unscaled = latents / config.scaling_factor + config.shift_factor
        else:
            unscaled = latents / config.scaling_factor
        decoded: torch.Tensor = self.vae.decode(unscaled, return_dict=False)[0]
        return decoded

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return mean and deviation of each channel of latents, [1, channels, 1, 1], if known."""
        config = self.vae.config
        if config.latents_mean is None or config.latents_std is None:
            return None
        mean, deviation = (
            torch.tensor(numbers, device=latents.device, dtype=latents.dtype).reshape(1, -1, 1, 1)
            for numbers in (config.latents_mean, config.latents_std)
        )
        return mean, deviation

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
