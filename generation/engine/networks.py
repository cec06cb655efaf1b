"""A model's networks in one precision, and the sizes of the calls that they take."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

from ..catalog.addons.loras import NO_INVERSIONS, NO_LORAS, LoraLibrary
from ..errors import OutOfMemory
from ..models.family import Conditioning, Model, Posterior, Predict, Shapes
from ..timing import Sizes
from ..values.request import GenerationRequest
from . import noise
from .adaptation import Adaptation, AdaptedModels
from .autoencoder import Autoencoder
from .calibration import (
    LADDER,
    Bounds,
    Call,
    Learned,
    carry_over,
    computing_on,
    fewer_threads,
    measure,
)
from .embeddings import TextEmbedder
from .memory import Room, attempt

log = logging.getLogger(__name__)

T = TypeVar("T")

# Each size is compiled separately, which takes a minute on a CPU.
_COMPILED_LADDER: Final = (2, 8, 16)
_BASE: Final = 2
# After so many seconds another program may have given back the memory or the time it took.
_REGROW_SECONDS: Final = 600.0

_Key = tuple[tuple[int, ...], Shapes]


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    """What the model makes of the pictures of a request, once for all of its images.

    `posterior` is the encoder's view of the picture that the images start from, if there is one.
    `references` is what the network is told of the references.
    """

    posterior: Posterior | None
    references: Mapping[str, torch.Tensor]


class Networks:
    """One model in one precision, and the sizes of the calls that its networks take.

    With `exact` only calls are made whose rows are the same to the last bit. With `compiled` the
    network is compiled for pictures of the model's own size alone: each further shape would take
    minutes, in which no picture is made. Without `shared` nothing is measured, and each image has
    calls of its own. `library` has the LoRAs; with LoRAs nothing is compiled. What was `learned` of
    the same model before is not measured again. `room` are the other models in memory.
    """

    def __init__(
        self,
        model: Model,
        *,
        exact: bool,
        compiled: bool,
        shared: bool = True,
        library: LoraLibrary = NO_LORAS,
        inversions: LoraLibrary = NO_INVERSIONS,
        learned: Learned | None = None,
        room: Room | None = None,
    ) -> None:
        if learned is not None and learned.weights_sha256 != model.weights_sha256:
            learned = None
        self.model = model
        self.adapted = AdaptedModels(model, library, inversions, room)
        sizes = None if learned is None else learned.text
        self.text = TextEmbedder(self.adapted, exact=exact, shared=shared, sizes=sizes)
        known = None if learned is None else learned.decoding
        self.autoencoder = Autoencoder(model, exact=exact, shared=shared, known=known)
        self._compiled: Predict | None = model.compiled() if compiled else None
        self._shared = shared
        self._bounds = Bounds(base=_BASE, ladder=LADDER, exact=exact)
        self._whole: dict[_Key, Sizes] = {} if learned is None else dict(learned.steps)
        self._sizes = self._whole.copy()
        # What was measured: the model's own size, with the text that came first.
        self._native: _Key | None = None if learned is None else learned.native
        self._changed_at: float | None = None
        self._tunes_threads = not compiled and model.device.type == "cpu"
        self._threads: dict[tuple[torch.Size, Shapes], int] = {}
        if learned is not None:
            self._threads |= learned.threads

    @property
    def learned(self) -> Learned:
        """Return what was measured, for the same model when it is loaded again."""
        return Learned(
            weights_sha256=self.model.weights_sha256,
            text=self.text.sizes,
            decoding=dict(self.autoencoder.known_sizes),
            steps=dict(self._whole),
            threads=dict(self._threads),
            native=self._native,
        )

    def is_compiled_for(
        self, latents: torch.Size, told: Conditioning, adaptation: Adaptation | None
    ) -> bool:
        """Return whether the network is compiled for latents [n, ...] and texts like those given.

        It is not for references: these come in any number of shapes. Nor is it for LoRAs.
        """
        has_loras = adaptation is not None and adaptation.key is not None
        is_native = latents[1:] == self.autoencoder.native_shape[1:] and not _pictures(told)
        return self._compiled is not None and is_native and not has_loras

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        adaptation: Adaptation | None = None,
    ) -> torch.Tensor:
        """Return the prediction for each row, by the network with the LoRAs of `adaptation`."""
        is_compiled = self.is_compiled_for(latents.shape, conditioning, adaptation)
        plain = self.adapted.model(adaptation).predict
        predict = self._compiled if is_compiled and self._compiled else plain
        with computing_on(self._threads.get((latents.shape, conditioning.shape))):
            return predict(latents, timesteps, conditioning)

    def attempt(self, call: Callable[[], T]) -> T | None:
        """Return the result of `call`, or None if memory ran out.

        What no image needs leaves the memory first: merged LoRAs, then models.
        """
        result = attempt(call, self.model.device)
        while result is None and self.adapted.make_room():
            log.warning("Out of memory; LoRAs or a model that no picture needs were dropped")
            result = attempt(call, self.model.device)
        return result

    def encode_pictures(self, request: GenerationRequest) -> EncodedPictures:
        """Return what the model makes of the pictures of a request."""
        source, references = request.pixels, request.reference_pixels
        return EncodedPictures(
            posterior=None if source is None else self.autoencoder.posterior(source),
            references=self.autoencoder.refer(references) if references else {},
        )

    def sizes(self, latents: torch.Size, *told: Conditioning) -> Sizes:
        """Return the sizes of calls for latents [rows, ...] and for texts like those given.

        A step may need a call for each of several texts. The sizes are then those that all calls
        may have, with the seconds of all of them.

        The sizes are measured for the model's own size when the engine is loaded. For another size,
        or a text of another shape, or with references, they are estimated from these when first
        seen.

        Raises:
            OutOfMemory: not even one image of this shape fits.
        """
        if self._changed_at is not None and time.monotonic() > self._changed_at + _REGROW_SECONDS:
            self.regrow()
        first, *others = (self._sizes_for(latents, text) for text in told)
        if not others:
            return first
        # Calls of the smallest size, `_BASE`, are always among them.
        common = set(first.seconds).intersection(*(sizes.seconds for sizes in others))
        calls = (first, *others)
        return Sizes({size: sum(s.seconds[size] for s in calls) for size in sorted(common)})

    def _sizes_for(self, latents: torch.Size, told: Conditioning) -> Sizes:
        key = _key(latents, told.shape)
        if key not in self._sizes:
            self._whole[key] = self._sizes[key] = self._fitting(latents, told)
            log.debug("Calls for %s: %s", key, self._sizes[key])
        return self._sizes[key]

    def _fitting(self, latents: torch.Size, told: Conditioning) -> Sizes:
        if not self._shared:
            return Sizes({_BASE: 1.0})
        native = torch.Size(self.autoencoder.native_shape)
        pictures = _pictures(told)

        def find() -> Sizes:
            if self._native is None and latents[1:] == native[1:] and not pictures:
                return self._measured(latents, told)
            places = sum(math.prod(picture[2:]) for picture in [latents, *pictures.values()])
            text = {name: told.tensors[name] for name in told.tensors if name not in pictures}
            known = self._sizes[self._native] if self._native else None
            known = known or self._sizes_for(native, Conditioning(text))
            larger = places / math.prod(native[2:])
            return carry_over(self._probe(latents, told), known, larger, self._bounds)

        sizes = self.attempt(find)
        if sizes is None:
            raise OutOfMemory
        return sizes

    def _measured(self, latents: torch.Size, told: Conditioning) -> Sizes:
        call, bounds = self._probe(latents, told), self._bounds
        if self._compiled is not None:
            ladder = tuple(size for size in _COMPILED_LADDER if size <= max(bounds.ladder))
            bounds = Bounds(base=_BASE, ladder=ladder, exact=bounds.exact)
        sizes = measure(call, bounds, self.model.device)
        if self._tunes_threads:
            sizes, threads = fewer_threads(call, sizes)
            self._threads |= {
                (torch.Size((size, *latents[1:])), told.shape): count
                for size, count in threads.items()
            }
        self._native = _key(latents, told.shape)
        return sizes

    def _probe(self, latents: torch.Size, told: Conditioning) -> Call:
        """Return a function that makes a call with so many equal rows."""
        row = self.place(noise.draw(noise.generator(0), (1, *latents[1:])))

        def call(size: int) -> torch.Tensor:
            rows, texts = torch.cat([row] * size), Conditioning.stack([told] * size)
            return self.predict(rows, torch.full((size,), 500.0), texts)

        return call

    def shrink(self, latents: torch.Size, text: Shapes, size: int) -> bool:
        """Stop calls of `size` rows or more for this shape; return False if no calls are left.

        These sizes are tried again later, since another program may have taken the memory. Each
        try costs one failed call if the memory still does not suffice.
        """
        self._changed_at = time.monotonic()
        key = _key(latents, text)
        smaller = {rows: time for rows, time in self._sizes[key].seconds.items() if 1 < rows < size}
        if smaller:
            self._sizes[key] = Sizes(smaller)
        return bool(smaller)

    def regrow(self) -> None:
        """Allow all calls again that ever fitted, with the seconds that were measured first."""
        self._changed_at = None
        self._sizes = self._whole.copy()

    def saw(self, latents: torch.Size, text: Shapes, size: int, seconds: float) -> None:
        """Record that a call of `size` rows of this shape took `seconds`.

        The record is forgotten after a while. A size that was slow on a busy machine is no longer
        called, so no later call could correct its time.
        """
        key = _key(latents, text)
        if self._changed_at is None:
            self._changed_at = time.monotonic()
        self._sizes[key] = self._sizes[key].corrected(size, seconds)

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` on the device and in the type of latents."""
        return tensor.to(device=self.model.device, dtype=self.model.latents_dtype)


def _pictures(told: Conditioning) -> dict[str, torch.Size]:
    """Return the shapes of the latents that the network is told of, by their names."""
    return {name: tensor.shape for name, tensor in told.tensors.items() if tensor.ndim == 4}  # noqa: PLR2004 - rows, channels, height, width


def _key(latents: torch.Size, text: Shapes) -> _Key:
    """Return the shapes of one row."""
    return tuple(latents[1:]), text
