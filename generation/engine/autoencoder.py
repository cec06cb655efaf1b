"""From pixels to latents and back, and previews of latents during denoising."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch.nn import functional

from ..models.family import Model, Posterior
from ..timing import Sizes
from ..values.pixels import Pixels
from . import noise
from .calibration import Bounds, carry_over, measure
from .memory import attempt

_LADDER: Final = (1, 2, 4)
# All images wait while pictures are decoded, so a call should take little longer than a step.
_SECONDS: Final = 0.3
_PROBES: Final = 8
_PROBE_COLOURS: Final = 4


class Autoencoder:
    """The autoencoder of a model.

    With `exact` a picture is the same to the last bit whatever is decoded beside it. Without
    `shared` each picture is decoded alone. `known` are sizes that were measured of the same model
    before.
    """

    def __init__(
        self,
        model: Model,
        *,
        exact: bool,
        shared: bool,
        known: Mapping[tuple[int, ...], Sizes] | None = None,
    ) -> None:
        self._model = model
        savings = model.profile.savings
        self._shared = shared and not savings.decoder_slicing
        self._tile = savings.decoder_tile
        self._bounds = Bounds(base=1, ladder=_LADDER, seconds=_SECONDS, exact=exact)
        self._sizes = dict(known or {})
        self._colours = self._fit_colours()

    @property
    def known_sizes(self) -> Mapping[tuple[int, ...], Sizes]:
        """Return the sizes of calls that were measured, by the shape of one row."""
        return self._sizes

    @property
    def native_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of the latents of one picture of the model's own size."""
        side = self._model.profile.native_size
        return self._model.latent_shape(side, side)

    def sizes(self, shape: Sequence[int]) -> Sizes:
        """Return how many latents of `shape` [1, channels, height, width] to decode at once."""
        key = tuple(shape[1:])
        if key not in self._sizes:
            self._sizes[key] = self._fitting(key) if self._shared else Sizes({1: 1.0})
        return self._sizes[key]

    def _fitting(self, key: tuple[int, ...]) -> Sizes:
        # Noise has the scale of real latents; what it shows does not matter.
        probe = self._place(noise.draw(noise.generator(0), (1, *key)))

        def call(rows: int) -> torch.Tensor:
            return self._model.decode(probe.expand(rows, -1, -1, -1).contiguous())

        native, device = self.native_shape, self._model.device

        def find() -> Sizes:
            if key == native[1:]:
                return measure(call, self._bounds, device)
            larger = math.prod(key[1:]) / math.prod(native[2:])
            return carry_over(call, self.sizes(native), larger, self._bounds)

        # If not even one picture fits whole, pictures are decoded in tiles.
        return attempt(find, device) or Sizes({1: self._bounds.seconds})

    def posterior(self, source: Pixels) -> Posterior:
        """Return the encoder's view of `source`, from which `sample` draws latents."""
        return self._model.posterior(self._picture(source))

    def refer(self, references: Sequence[Pixels]) -> Mapping[str, torch.Tensor]:
        """Return what the network is told of references, as `Model.refer` does."""
        return self._model.refer([self._picture(reference) for reference in references])

    def _picture(self, pixels: Pixels) -> torch.Tensor:
        """Return pixels as numbers from -1 to 1 on the device, [1, 3, height, width]."""
        rgb = torch.frombuffer(bytearray(pixels.rgb), dtype=torch.uint8)
        image = rgb.reshape(1, pixels.height, pixels.width, 3).permute(0, 3, 1, 2)
        unit = 2.0 * (image.to(torch.float32) / 255.0) - 1.0
        return unit.to(self._model.device)

    def sample(self, posterior: Posterior, draws: torch.Generator) -> torch.Tensor:
        """Return latents drawn from `posterior`, scaled for the network; `draws` is on the CPU."""
        if posterior.std is None:
            return self._model.scale(self._place(posterior.mean))
        drawn = noise.draw(draws, posterior.mean.shape).to(posterior.mean)
        return self._model.scale(self._place(posterior.mean + posterior.std * drawn))

    def decode(self, latents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the pictures of `latents`, all of one shape, [3, height, width] from -1 to 1.

        Raises:
            torch.OutOfMemoryError: not even one fits into the memory.
        """
        waiting, pictures = list(latents), list[torch.Tensor]()
        for size in self.sizes(latents[0].shape).split(len(waiting)):
            group, waiting = waiting[:size], waiting[size:]
            rows = torch.cat([*group, *[group[-1]] * (size - len(group))])
            pictures += self._model.decode(rows)[: len(group)].unbind()
        return pictures

    def decode_in_tiles(self, latents: torch.Tensor, tile: int) -> torch.Tensor:
        """Return the picture of `latents`, decoded in overlapping tiles of `tile` pixels.

        Tiles take less memory. They are blended, so the pixels differ from a picture that is
        decoded whole.
        """
        return self._model.decode_in_tiles(latents, tile)[0]

    def tile_by_settings(self, width: int, height: int) -> int | None:
        """Return the tile, in pixels, that the settings ask for; None to decode a picture whole."""
        return None if self._tile is None or max(width, height) <= self._tile else self._tile

    def tile_for(self, latents: torch.Tensor) -> int | None:
        """Return the largest tile, in pixels, that is worth trying; None if there is none."""
        return self.smaller(self._model.pixels_per_latent * min(latents.shape[2:]))

    def smaller(self, tile: int) -> int | None:
        """Return a tile of about half the edge of `tile`; None if that is too small."""
        half = tile // 2 - tile // 2 % self._model.tile_multiple
        return half or None

    def preview(self, latents: torch.Tensor) -> Pixels:
        """Return a small picture of latents [1, channels, height, width], a pixel for each latent.

        A latent's colour is close to linear in the latent's channels, so no decoder is needed.
        """
        planes = latents[0].flatten(1).t().float()
        rgb = planes @ self._colours[:-1] + self._colours[-1]
        return rounded(rgb.t().reshape(3, *latents.shape[2:]))

    def _fit_colours(self) -> torch.Tensor:
        """Return the map from latents to RGB, [channels + 1, 3]; its last row is the offset.

        The map is a least-squares fit over smooth random pictures and their latents, so no table of
        known models is needed.
        """
        draws = noise.generator(0)
        side = _PROBE_COLOURS * 2 * self._model.pixels_per_latent
        colours = noise.draw(draws, (_PROBES, 3, _PROBE_COLOURS, _PROBE_COLOURS)).clamp(-2, 2) / 2
        smooth = functional.interpolate(colours, (side, side), mode="bilinear").clamp(-1, 1)
        latents = [
            self._model.posterior(picture.to(self._model.device)).mean
            for picture in torch.split(smooth, 1)
        ]
        # In half precision some autoencoders overflow, and the fit takes only finite numbers.
        known = self._model.scale(torch.cat(latents).float().cpu()).nan_to_num(0.0, 0.0, 0.0)
        wanted = functional.avg_pool2d(smooth, self._model.pixels_per_latent)
        planes = known.permute(0, 2, 3, 1).flatten(0, 2)
        planes = torch.cat([planes, torch.ones(len(planes), 1)], dim=1)
        fit = torch.linalg.lstsq(planes, wanted.permute(0, 2, 3, 1).flatten(0, 2)).solution
        fitted: torch.Tensor = fit.nan_to_num(0.0).to(self._model.device)
        return fitted

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=self._model.device, dtype=self._model.latents_dtype)


def rounded(picture: torch.Tensor) -> Pixels:
    """Return a picture [3, height, width] from -1 to 1 as bytes, rounded to the nearest."""
    unit = (picture * 0.5 + 0.5).clamp(0, 1).float().cpu()
    rgb = (unit.permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous()
    height, width, _ = rgb.shape
    return Pixels(width, height, rgb.numpy().tobytes())
