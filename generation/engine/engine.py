"""The denoising loop, written by hand, for images of many requests at once.

A prompt is embedded by the text encoder. Seeded noise in the autoencoder's latent space is denoised
step by step under classifier-free guidance. The autoencoder's decoder turns the latents into
pixels. The equations are in `generation.engine.denoising`.

An engine belongs to one thread. The code that drives the engine calls `begin`, `step` and `finish`:
images of several requests may be on their way at once, each at its own step, and share the calls of
all networks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ..catalog.addons.loras import NO_INVERSIONS, NO_LORAS, LoraLibrary
from ..catalog.profile import ModelProfile
from ..errors import GenerationError, InvalidRequest, OutOfMemory, PictureRefused
from ..models.family import Model
from ..postprocess import stages as postprocess
from ..postprocess.stages import Stage
from ..schedulers import fitting
from ..timing import Measured
from ..values.events import Progress
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage
from ..values.request import GenerationRequest, Told
from ..workers.protocol import OnSign
from . import denoising, recovery
from .autoencoder import rounded
from .calibration import Learned
from .denoising import Denoising, SuspendedImage
from .memory import DropOther, Room, attempt
from .networks import Networks
from .recipes import library_versions, recipe_of


class Engine:
    """A latent diffusion engine on one device, used by one thread.

    With `deterministic` each picture is the same to the last bit whatever is made beside it: calls
    then have only sizes for which the kernels of this device agree. On a CPU that costs nothing and
    is always so. With `compiled` the network is compiled at the start. Without `shared` each image
    has calls of its own: slower for many images, but nothing has to be measured. `load_in_float32`
    loads the model again in float32, for pictures that overflow. Each picture passes through
    `stages` in order. `library` has the LoRAs that requests name, and `inversions` the textual
    inversions. `on_sign` is called after each call of a network, and before a model is loaded.
    """

    def __init__(
        self,
        model: Model,
        *,
        deterministic: bool = False,
        compiled: bool = False,
        shared: bool = True,
        load_in_float32: Callable[[], Model] | None = None,
        stages: Sequence[Stage] = (),
        library: LoraLibrary = NO_LORAS,
        inversions: LoraLibrary = NO_INVERSIONS,
        on_sign: OnSign = lambda _: None,
        learned: Learned | None = None,
    ) -> None:
        exact = deterministic or model.device.type == "cpu"
        self._profile = model.profile
        self._device = model.device
        self._stages = stages
        self._on_sign = on_sign
        self._room = Room()
        with torch.inference_mode():
            self._networks = Networks(
                model,
                exact=exact,
                compiled=compiled,
                shared=shared,
                library=library,
                learned=learned,
                inversions=inversions,
                room=self._room,
            )
        self._second_attempt = recovery.SecondAttempt(
            self._networks, load_in_float32, exact=exact, on_sign=on_sign, room=self._room
        )
        self._versions = library_versions()
        self._images: weakref.WeakSet[Denoising] = weakref.WeakSet()

    @property
    def learned(self) -> Learned:
        """Return what was measured, for an engine with the same model on the same device."""
        return self._networks.learned

    @property
    def weights_sha256(self) -> str:
        """Return the hash of the model's files."""
        return self._networks.model.weights_sha256

    @property
    def is_idle(self) -> bool:
        """Return whether no image is on its way."""
        return all(image.failure is not None for image in self._images)

    def share_memory(self, drop_other: DropOther) -> None:
        """Let `drop_other` drop other models where the memory does not suffice for a call."""
        self._room.drop_other = drop_other

    @torch.inference_mode()
    def measured(self) -> Measured:
        """Return how long calls take at the model's own size; the first call measures."""
        side = self._profile.native_size
        shape = torch.Size(self._networks.autoencoder.native_shape)
        # Of an empty text some families are told zeros, which hide how the kernels sum.
        sample = Told("a")
        scale = self._networks.model.embed_guidance(self._profile.default_guidance_scale)
        text = self._networks.text.embed([sample])[sample].conditioning.beside(scale)
        return Measured(
            pixels=side * side,
            step_seconds=self._networks.sizes(shape, text).seconds,
            decode_seconds=self._networks.autoencoder.sizes(shape).seconds,
        )

    @torch.inference_mode()
    def begin(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[Denoising] | GenerationError]:
        """Return for each request its images at their first step, or why there will be none."""
        begun: list[list[Denoising] | GenerationError] = []
        self._embed_together(requests)
        for request in requests:
            self._on_sign("alive")
            images = self._networks.attempt(partial(self._begin, request)) or OutOfMemory()
            if not isinstance(images, GenerationError):
                self._images.update(images)
            begun.append(images)
        return begun

    @torch.inference_mode()
    def step(self, images: Sequence[Denoising]) -> None:
        """Take the next step of every image in `images` that is neither done nor failed.

        Where memory runs out the calls are made smaller. An image for which that does not help has
        failed.
        """
        waiting = [image for image in images if not image.done and image.failure is None]
        batches = recovery.plan_steps(waiting)
        self._on_sign("alive")
        for batch in batches:
            recovery.take_step(batch, self._on_sign)
        _synchronize(self._device)

    @torch.inference_mode()
    def finish(self, images: Sequence[Denoising]) -> list[GeneratedImage | None]:
        """Return the pictures of images that are done, each with its recipe.

        It is None for an image that has failed, and for an image that overflowed and has been set
        back to its first step to be made in float32.
        """
        finished: dict[Denoising, GeneratedImage] = {}
        groups: dict[object, list[Denoising]] = {}
        for image in images:
            if image.failure is None and self._is_finite(image, image.latents):
                groups.setdefault(image.batch_key, []).append(image)
        for group in groups.values():
            pictures = recovery.decode(group, self._on_sign)
            self._on_sign("alive")
            for image, picture in zip(group, pictures, strict=True):
                if picture is not None and self._is_finite(image, picture):
                    self._complete(image, rounded(picture), finished)
        return [finished.get(image) for image in images]

    @torch.inference_mode()
    def preview(self, image: Denoising) -> Pixels | None:
        """Return a small picture of what `image` will be, a pixel for each latent."""
        predicted = image.sampler.predicted
        return None if predicted is None else image.networks.autoencoder.preview(predicted)

    def suspend(self) -> list[SuspendedImage]:
        """Take the networks from all images on their way, so that the model can leave the memory.

        The images keep their latents. `resume` of another engine goes on with them.
        """
        suspended = [image.suspend(self._networks) for image in self._images]
        self._images.clear()
        return suspended

    @torch.inference_mode()
    def resume(self, images: Sequence[SuspendedImage], *, restart: bool = False) -> None:
        """Give networks to images that were suspended. Those in float32 start again.

        With `restart` all start again: steps of one image must not come from different weights.
        """
        for suspended in images:
            if (image := suspended.image()) is not None:
                image.networks = self._networks
                self._images.add(image)
                if suspended.in_float32:
                    self._second_attempt.start(image)
                elif restart and image.failure is None:
                    image.failure = recovery.restart(image, lambda: self._networks, self._device)

    def release_unused(self) -> None:
        """Do nothing: what is dropped here is gone at once (see `generation.workers.process`)."""

    def close(self) -> None:
        """Do nothing: a step here cannot be interrupted (see `generation.workers.process`)."""

    def generate(
        self,
        request: GenerationRequest,
        on_progress: Callable[[Progress], None] = lambda _: None,
        *,
        decoder_tile: int | None = None,
    ) -> list[GeneratedImage]:
        """Return all images of `request`, calling `on_progress` after each step.

        With `decoder_tile` they are decoded in tiles of so many pixels, or whole if it is 0.
        Otherwise the settings of the model count.

        Raises:
            InvalidRequest: the size, or the tile, does not fit the model.
            OutOfMemory: the request does not fit into the memory.
            NotFinite: the numbers overflow, even in float32.
        """
        _check_tile(self._networks.model.tile_multiple, decoder_tile)
        (images,) = self.begin([request])
        if isinstance(images, GenerationError):
            raise images
        if decoder_tile is not None:
            for image in images:
                image.decoder_tile = decoder_tile or None
        pictures: dict[int, GeneratedImage] = {}
        while len(pictures) < len(images):
            left = [image for image in images if image.index not in pictures]
            while not all(image.done or image.failure for image in left):
                self.step(left)
                on_progress(left[0].progress)
            for image, picture in zip(left, self.finish(left), strict=True):
                if image.failure is not None:
                    raise image.failure
                if picture is not None:
                    pictures[image.index] = picture
        return [pictures[image.index] for image in images]

    def _embed_together(self, requests: Sequence[GenerationRequest]) -> None:
        """Embed and cache the texts of all requests without LoRAs, in as few calls as possible.

        If memory runs out, nothing is cached, and the texts of each request are embedded alone.
        """
        plain = [request for request in requests if not (request.loras or request.inversions)]
        texts = [text for request in plain for text in denoising.texts(request, self._profile)]
        attempt(lambda: self._networks.text.embed(texts), self._device)

    def _begin(self, request: GenerationRequest) -> list[Denoising] | GenerationError:
        try:
            _check_size(self._profile, request)
            _check_references(self._profile, request)
            fitting.check(request, self._profile.scheduler_config)
            adaptation = self._networks.adapted.find(request.loras, request.inversions)
            told = denoising.texts(request, self._profile)
            # Merged here, LoRAs that overflow or do not fit are the failure of this request alone.
            self._networks.adapted.model(adaptation)
            embedded = self._networks.text.embed(told, adaptation)
            return denoising.begin_all(request, self._networks, embedded, adaptation)
        except GenerationError as error:
            return error.with_traceback(None)

    def _is_finite(self, image: Denoising, numbers: torch.Tensor) -> bool:
        """Return whether all `numbers` of an image are finite; else start the image again."""
        if bool(torch.isfinite(numbers).all()):
            return True
        self._second_attempt.start(image)
        return False

    def _complete(
        self, image: Denoising, decoded: Pixels, finished: dict[Denoising, GeneratedImage]
    ) -> None:
        """Add the picture of an image to `finished`, or fail the image if a stage refuses it."""
        try:
            pixels = postprocess.run(self._stages, decoded, image.request)
        except PictureRefused as refusal:
            image.failure = refusal.with_traceback(None)
            return
        recipe = recipe_of(image, pixels.sha256, self._versions)
        finished[image] = GeneratedImage(index=image.index, pixels=pixels, recipe=recipe)


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done what this step launched.

    Otherwise all steps would be launched at once: no image could join or leave, progress would
    be unknown, and an error would come to light in a later call that other images share. The
    wait costs next to nothing, since the next call waits for this one as soon as it moves
    timesteps to the device.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_tile(multiple: int, tile: int | None) -> None:
    if tile and (tile < multiple or tile % multiple):
        raise InvalidRequest(
            "decoder_tile",
            f"The decoder tile is {tile}; this model needs a multiple of {multiple}.",
        )


def _check_size(profile: ModelProfile, request: GenerationRequest) -> None:
    multiple = profile.size_multiple
    for name, value in (("width", request.width), ("height", request.height)):
        if value % multiple:
            raise InvalidRequest(
                name,
                f"The {name} is {value}; the model {profile.name} needs a multiple of {multiple}.",
            )


def _check_references(profile: ModelProfile, request: GenerationRequest) -> None:
    profile.check_references(len(request.references))
    multiple = profile.size_multiple
    for number, picture in enumerate(request.references, 1):
        if picture.width % multiple or picture.height % multiple:
            raise InvalidRequest(
                "references",
                f"Reference picture {number} is {picture.width}x{picture.height}; the model "
                f"{profile.name} needs multiples of {multiple}.",
            )
