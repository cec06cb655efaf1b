"""What the engine does where memory runs out, and where numbers overflow.

- LoRAs and models that no image needs leave the memory first.
- A step that does not fit then is taken in smaller calls. Before an image fails because it does not
  fit alone, all other LoRAs and models leave the memory.
- Pictures that do not fit together are decoded one by one, then in smaller and smaller tiles.
- An image whose numbers overflow is made a second time, in float32.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from ..errors import GenerationError, ModelTooLarge, NotFinite, OutOfMemory
from ..models.family import Model
from ..timing import Sizes
from ..workers.protocol import OnSign
from . import batching
from .batching import Batch
from .denoising import Denoising, predict
from .memory import Room, attempt, release
from .networks import Networks

log = logging.getLogger(__name__)


def plan_steps(images: Sequence[Denoising]) -> list[Batch[Denoising]]:
    """Return the calls by which `images` take one step; an image that does not fit fails."""
    try:
        return list(batching.plan(images, _sizes))
    except OutOfMemory:
        # One shape does not fit, which is found out when the shape is seen for the first time.
        fitting = _fail_shapes(images)
        return list(batching.plan(fitting, _sizes))


def _fail_shapes(images: Iterable[Denoising]) -> list[Denoising]:
    """Fail the images of shapes that do not fit, and return the others."""
    fitting = []
    for image in images:
        try:
            _sizes(image)
        except OutOfMemory as failure:
            image.failure = failure.with_traceback(None)
        else:
            fitting.append(image)
    return fitting


def _sizes(image: Denoising) -> Sizes:
    """Return the sizes of calls for images like this one.

    Raises:
        OutOfMemory: not even one image of this shape fits.
    """
    return image.networks.sizes(image.latents.shape, *image.told)


def take_step(batch: Batch[Denoising], on_sign: OnSign) -> None:
    """Take a step of each image of `batch`, in smaller calls if memory runs out.

    The images fail if not even one fits, or if the LoRAs that they share cannot be merged.
    """
    first = batch.images[0]
    networks, device = first.networks, first.networks.model.device
    shapes = first.latents.shape, first.conditional.shape
    start = time.perf_counter()
    try:
        predictions = networks.attempt(lambda: predict(batch))
    except GenerationError as error:
        # LoRAs that had left the memory are merged again, which may fail.
        for image in batch.images:
            image.failure = error.with_traceback(None)
        on_sign("alive")
        return
    seconds = time.perf_counter() - start
    on_sign("alive")
    if predictions is not None:
        for image, prediction in zip(batch.images, predictions, strict=True):
            image.latents = image.sampler.step(prediction, image.latents)
        if device.type == "cpu" and not first.takes_two_calls:
            # On another device the call was only launched, so the time says nothing.
            networks.saw(*shapes, batch.size, seconds)
        return
    log.warning("Out of memory at %s rows of %s", batch.size, tuple(first.latents.shape))
    if networks.shrink(*shapes, batch.size):
        for smaller in batching.plan(batch.images, _sizes):
            take_step(smaller, on_sign)
    elif networks.adapted.make_room_for(first.adaptation):
        take_step(batch, on_sign)
    else:
        for image in batch.images:
            image.failure = OutOfMemory()


def decode(images: Sequence[Denoising], on_sign: OnSign) -> list[torch.Tensor | None]:
    """Return the pictures of images of one batch key; None for an image that failed."""
    whole = [image for image in images if image.decoder_tile is None]
    pictures: dict[Denoising, torch.Tensor | None] = {**_decode_whole(whole, on_sign)}
    for image in images:
        if image not in pictures:
            pictures[image] = _decode_in_tiles(image, on_sign)
    return [pictures[image] for image in images]


def _decode_whole(images: Sequence[Denoising], on_sign: OnSign) -> dict[Denoising, torch.Tensor]:
    """Return the pictures of those of `images` that fit into the memory."""
    if not images:
        return {}
    networks = images[0].networks
    latents = [image.latents for image in images]
    decoded = networks.attempt(lambda: networks.autoencoder.decode(latents))
    if decoded is not None:
        return dict(zip(images, decoded, strict=True))
    on_sign("alive")
    if len(images) == 1:
        return {}
    log.warning("Out of memory at decoding %s pictures; decoding one by one", len(images))
    pictures: dict[Denoising, torch.Tensor] = {}
    for image in images:
        pictures |= _decode_whole([image], on_sign)
    return pictures


def _decode_in_tiles(image: Denoising, on_sign: OnSign) -> torch.Tensor | None:
    """Return the picture of `image` from the largest tiles that fit; without any, fail it."""
    networks, autoencoder = image.networks, image.networks.autoencoder
    tile = image.decoder_tile or autoencoder.tile_for(image.latents)
    while tile is not None:
        on_sign("alive")
        picture = networks.attempt(partial(autoencoder.decode_in_tiles, image.latents, tile))
        if picture is not None:
            image.decoder_tile = tile
            return picture
        tile = autoencoder.smaller(tile)
    image.failure = OutOfMemory()
    return None


def restart(
    image: Denoising, networks: Callable[[], Networks], device: torch.device
) -> GenerationError | None:
    """Set an image back to its first step on other networks, and return why that failed."""

    def on_networks() -> bool:
        image.restart(networks())
        return True

    try:
        return None if attempt(on_networks, device) else OutOfMemory()
    except GenerationError as error:
        return error.with_traceback(None)


class SecondAttempt:
    """Starts an image whose numbers overflowed again, on networks in float32.

    `load` loads these networks; without it the image fails. They are loaded when the first image
    needs them, and dropped when no image needs them any more. `room` are the other models.
    """

    def __init__(
        self,
        networks: Networks,
        load: Callable[[], Model] | None,
        *,
        exact: bool,
        on_sign: OnSign,
        room: Room,
    ) -> None:
        self._networks = networks
        self._load = load
        self._exact = exact
        self._on_sign = on_sign
        self._room = room
        self._float32: weakref.ref[Networks] | None = None

    def start(self, image: Denoising) -> None:
        """Set `image` back to its first step, in float32; fail it if it was in float32 before."""
        dtype = image.networks.model.dtype
        if dtype == torch.float32 or self._load is None:
            image.failure = NotFinite()
            return
        log.warning("A picture overflowed in %s; it is made again in float32", dtype)
        image.failure = self._restart(image, self._load)
        lacks_memory = (OutOfMemory, ModelTooLarge)
        while isinstance(image.failure, lacks_memory) and self._networks.adapted.make_room():
            image.failure = self._restart(image, self._load)
        if image.failure is not None:
            release(self._networks.model.device)

    def _restart(self, image: Denoising, load: Callable[[], Model]) -> GenerationError | None:
        """Set the image back to its first step in float32, and return why that failed."""
        device = self._networks.model.device
        return restart(image, lambda: self._in_float32(load), device)

    def _in_float32(self, load: Callable[[], Model]) -> Networks:
        networks = None if self._float32 is None else self._float32()
        if networks is None:
            self._on_sign("loading")
            # Few pictures need these networks, so measuring shared calls would not pay.
            networks = Networks(
                load(), exact=self._exact, compiled=False, shared=False, room=self._room
            )
            self._on_sign("alive")
            self._float32 = weakref.ref(networks)
            weakref.finalize(networks, self._regain_memory).atexit = False
        return networks

    def _regain_memory(self) -> None:
        """Use the memory again that the networks in float32 took."""
        release(self._networks.model.device)
        self._networks.regrow()
