"""A model's networks in one precision, and the sizes of the calls that they take."""

from __future__ import annotations

import logging
import math
import time
from typing import Any, Final

import torch

from ..errors import OutOfMemory
from ..models.stable_diffusion import Components
from ..timing import Sizes
from . import noise
from .autoencoder import Autoencoder
from .calibration import LADDER, Bounds, Call, carry_over, computing_on, fewer_threads, measure
from .embeddings import TextEmbedder
from .memory import is_out_of_memory, release

log = logging.getLogger(__name__)

# Each size is compiled by itself, which takes a minute on a CPU.
_COMPILED_LADDER: Final = (2, 8, 16)
_BASE: Final = 2
# What another program took, of memory or of time, it may have given back after so many seconds.
_REGROW_SECONDS: Final = 600.0

Shape = tuple[int, ...]


class Networks:
    """One model in one precision, and the sizes of the calls that its networks take.

    With `exact` only calls count whose rows are the same to the last bit. With `compiled` the
    UNet is compiled for pictures of the model's own size: each shape would take minutes, in
    which nobody gets a picture. Without `shared` nothing is measured, and each image has calls
    of its own.
    """

    def __init__(
        self, parts: Components, *, exact: bool, compiled: bool, shared: bool = True
    ) -> None:
        self.parts = parts
        self.text = TextEmbedder(parts, exact=exact, shared=shared)
        self.autoencoder = Autoencoder(parts, exact=exact, shared=shared)
        self._compiled: Any = _compiled(parts) if compiled else None
        self._shared = shared
        self._bounds = Bounds(base=_BASE, ladder=LADDER, exact=exact)
        # By the shape of a row of latents and of its text.
        self._whole: dict[Shape, Sizes] = {}
        self._sizes: dict[Shape, Sizes] = {}
        self._changed_at: float | None = None
        self._tunes_threads = not compiled and parts.device.type == "cpu"
        self._threads: dict[torch.Size, int] = {}

    def is_compiled_for(self, latents: torch.Size) -> bool:
        """Return whether the UNet is compiled for latents [n, channels, height, width]."""
        return self._compiled is not None and latents[1:] == self.autoencoder.native_shape[1:]

    def unet(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """Return the UNet's prediction for each row."""
        unet = self._compiled if self.is_compiled_for(latents.shape) else self.parts.unet
        with computing_on(self._threads.get(latents.shape)):
            prediction: torch.Tensor = unet(
                latents,
                timesteps.to(self.parts.device),
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        return prediction

    def sizes(self, latents: torch.Size, text: torch.Size) -> Sizes:
        """Return the sizes of UNet calls for latents and text of these shapes; row 0 is left out.

        They are measured for the model's own size, when the engine is loaded, and carried over
        from there to others when those are seen for the first time.

        Raises:
            OutOfMemory: not even one image of this shape fits.
        """
        if self._changed_at is not None and time.monotonic() > self._changed_at + _REGROW_SECONDS:
            self.regrow()
        key = (*latents[1:], *text[1:])
        if key not in self._sizes:
            self._whole[key] = self._sizes[key] = self._fitting(latents, text)
            log.debug("UNet calls for %s: %s", key, self._sizes[key])
        return self._sizes[key]

    def _fitting(self, latents: torch.Size, text: torch.Size) -> Sizes:
        if not self._shared:
            return Sizes({_BASE: 1.0})
        native = torch.Size(self.autoencoder.native_shape)
        try:
            if latents[1:] == native[1:]:
                return self._measured(latents, text)
            larger = math.prod(latents[2:]) / math.prod(native[2:])
            known = self.sizes(native, text)
            call = self._probe(latents, text)
            return carry_over(call, known, larger, self._bounds)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        release(self.parts.device)
        raise OutOfMemory

    def _measured(self, latents: torch.Size, text: torch.Size) -> Sizes:
        call, bounds = self._probe(latents, text), self._bounds
        if self._compiled is not None:
            ladder = tuple(size for size in _COMPILED_LADDER if size <= max(bounds.ladder))
            bounds = Bounds(base=_BASE, ladder=ladder, exact=bounds.exact)
        sizes = measure(call, bounds, self.parts.device)
        if self._tunes_threads:
            sizes, threads = fewer_threads(call, sizes)
            self._threads |= {
                torch.Size((size, *latents[1:])): count for size, count in threads.items()
            }
        return sizes

    def _probe(self, latents: torch.Size, text: torch.Size) -> Call:
        """Return a call of so many rows that are all the same."""
        draws = noise.generator(0)
        row = self.place(noise.draw(draws, (1, *latents[1:])))
        states = self.place(noise.draw(draws, (1, *text[1:])))

        def call(size: int) -> torch.Tensor:
            rows, texts = (torch.cat([one] * size) for one in (row, states))
            return self.unet(rows, torch.full((size,), 500.0), texts)

        return call

    def shrink(self, latents: torch.Size, text: torch.Size, size: int) -> bool:
        """Offer no calls of `size` rows or more for this shape; False if none would be left.

        After a while they are offered again, since it may have been another program that took the
        memory; each time one does not fit costs one failed call.
        """
        self._changed_at = time.monotonic()
        key = (*latents[1:], *text[1:])
        smaller = {rows: time for rows, time in self._sizes[key].seconds.items() if 1 < rows < size}
        if smaller:
            self._sizes[key] = Sizes(smaller)
        return bool(smaller)

    def regrow(self) -> None:
        """Offer all calls again that were ever found to fit, with the seconds first measured."""
        self._changed_at = None
        self._sizes = self._whole.copy()

    def saw(self, latents: torch.Size, text: torch.Size, size: int, seconds: float) -> None:
        """Take note that a call of `size` rows of this shape took `seconds`.

        It is forgotten after a while: a size that was slow while the machine was busy is not
        called any more, so that nothing else would ever tell that it is quick again.
        """
        key = (*latents[1:], *text[1:])
        if self._changed_at is None:
            self._changed_at = time.monotonic()
        self._sizes[key] = self._sizes[key].corrected(size, seconds)

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` on the device and in the type of the weights."""
        return tensor.to(device=self.parts.device, dtype=self.parts.dtype)


def _compiled(parts: Components) -> Any:
    """Return the UNet, compiled for each size at its first call."""
    if parts.device.type == "cpu":
        from torch._inductor import config  # noqa: PLC0415 - it takes a second to import

        # Packs the weights and folds what is constant; it is for inference only.
        config.freezing = True
    return torch.compile(parts.unet, dynamic=False)
