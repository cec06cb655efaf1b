"""The four components and the denoising loop, written by hand.

Read it next to "High-Resolution Image Synthesis with Latent Diffusion Models"
(Rombach et al. 2022, https://arxiv.org/abs/2112.10752): a prompt is embedded by CLIP, seeded
noise in the autoencoder's latent space is denoised step by step by the UNet under
classifier-free guidance, and the autoencoder's decoder turns the latents into pixels.

An engine belongs to one thread. `begin`, `step` and `finish` are the seam for the code
that drives it: images of several requests may be on their way at once, each at its own step, and
share the calls of all three networks.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from ..errors import GenerationError, InvalidRequest, NotFinite, OutOfMemory
from ..models.stable_diffusion import Components
from ..schedulers.sampler import Sampler
from ..timing import Measured, Sizes
from ..values.events import Progress
from ..values.pixels import Pixels
from ..values.recipe import GeneratedImage, Recipe
from ..values.request import GenerationRequest, Told
from ..workers.protocol import OnSign
from . import batching, guidance, noise
from .autoencoder import Posterior, to_pixels
from .batching import Batch
from .embeddings import Embedding
from .memory import is_out_of_memory, release
from .networks import Networks

log = logging.getLogger(__name__)

_LIBRARIES: Final = ("imagine-bot", "torch", "diffusers", "transformers")


@dataclass(slots=True, kw_only=True, eq=False)
class Denoising:
    """One image on its way from noise to picture; `request` asks for this image alone.

    `failure` says why there will be no picture, if so.
    """

    index: int
    request: GenerationRequest
    networks: Networks
    sampler: Sampler
    latents: torch.Tensor
    conditional: torch.Tensor
    unconditional: torch.Tensor | None
    unread_prompt: str
    decoder_tile: int | None = None
    failure: GenerationError | None = None

    @property
    def done(self) -> bool:
        """Return whether every step is taken and only decoding is left."""
        return self.sampler.taken == self.sampler.steps

    @property
    def progress(self) -> Progress:
        """Return how many of its steps are taken."""
        return Progress(self.sampler.taken, self.sampler.steps)

    @property
    def rows(self) -> int:
        """Return how many rows it adds to a UNet call."""
        return 1 if self.unconditional is None else 2

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Return what has to agree in one UNet call: weights, latent shape and text length."""
        return (self.networks.parts.dtype, *self.latents.shape[1:], self.conditional.shape[1])


class Engine:
    """A latent diffusion engine on one device, used by one thread.

    With `deterministic` each picture is the same to the last bit whatever is made beside it:
    calls then have only sizes for which the kernels of this device agree. On a CPU that
    costs nothing and is always so. With `compiled` the UNet is compiled at the start. Without
    `shared` each image has calls of its own: slower for many, but nothing has to be measured.
    `load_in_float32` loads the networks again in float32, for pictures that overflow.
    `on_sign` is called after each call of a network, and before a model is loaded.
    """

    def __init__(
        self,
        components: Components,
        *,
        deterministic: bool = False,
        compiled: bool = False,
        shared: bool = True,
        load_in_float32: Callable[[], Components] | None = None,
        on_sign: OnSign = lambda _: None,
    ) -> None:
        self._exact = deterministic or components.device.type == "cpu"
        self._profile = components.profile
        self._device = components.device
        self._load_in_float32 = load_in_float32
        with torch.inference_mode():
            self._networks = Networks(
                components, exact=self._exact, compiled=compiled, shared=shared
            )
        # Alive for as long as an image needs them.
        self._float32: weakref.ref[Networks] | None = None
        self._versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        self._on_sign = on_sign

    @torch.inference_mode()
    def measured(self) -> Measured:
        """Return what calls take at the model's own size; the first time it is measured."""
        side = self._profile.native_size
        shape = torch.Size(self._networks.autoencoder.native_shape)
        text = next(iter(self._networks.text.embed([Told("")]).values())).hidden.shape
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
            try:
                embedded = self._networks.text.embed(_texts(request))
                begun.append(self._begin_images(request, embedded))
            except GenerationError as error:
                begun.append(error.with_traceback(None))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                begun.append(OutOfMemory())
        return begun

    @torch.inference_mode()
    def step(self, images: Sequence[Denoising]) -> None:
        """Take the next step of every image in `images` that is neither done nor failed.

        Where memory runs out the calls are made smaller; an image for which that does not
        help has failed.
        """
        waiting = [image for image in images if not image.done and image.failure is None]
        try:
            batches = list(batching.plan(waiting, _sizes))
        except OutOfMemory as failure:
            # A shape that is seen for the first time; the others have to go on.
            waiting = _fail_shapes(waiting, failure)
            batches = list(batching.plan(waiting, _sizes))
        self._on_sign("alive")
        for batch in batches:
            self._step_batch(batch)
        self._keep_pace()

    @torch.inference_mode()
    def finish(self, images: Sequence[Denoising]) -> list[GeneratedImage | None]:
        """Return the pictures of images that are done, each with its recipe.

        It is None for an image that has failed, and for one that overflowed and has been set
        back to its first step to be made in float32.
        """
        finished: list[GeneratedImage | None] = [None] * len(images)
        sound = {
            position: image
            for position, image in enumerate(images)
            if image.failure is None and self._check_latents(image)
        }
        groups: dict[object, list[int]] = {}
        for position, image in sound.items():
            groups.setdefault(image.batch_key, []).append(position)
        for positions in groups.values():
            pictures = self._decode([images[position] for position in positions])
            self._on_sign("alive")
            for position, picture in zip(positions, pictures, strict=True):
                if picture is not None:
                    finished[position] = self._finished(images[position], picture)
        return finished

    @torch.inference_mode()
    def preview(self, image: Denoising) -> Pixels | None:
        """Return a small picture of what `image` will be, a pixel for each latent."""
        predicted = image.sampler.predicted
        return None if predicted is None else image.networks.autoencoder.glance(predicted)

    def release_unused(self) -> None:
        """Do nothing: what is dropped here is gone at once (see `generation.workers.process`)."""

    def close(self) -> None:
        """Do nothing: a step here cannot be broken off (see `generation.workers.process`)."""

    def generate(
        self,
        request: GenerationRequest,
        on_progress: Callable[[Progress], None] = lambda _: None,
        *,
        decoder_tile: int | None = None,
    ) -> list[GeneratedImage]:
        """Return all images of `request`, calling `on_progress` after each step.

        With `decoder_tile` they are decoded in tiles of so many pixels.

        Raises:
            InvalidRequest: the size, or the tile, does not fit the model.
            OutOfMemory: it does not fit into the memory.
            NotFinite: it overflows, even in float32.
        """
        multiple = self._networks.autoencoder.tile_multiple
        if decoder_tile is not None and (decoder_tile < multiple or decoder_tile % multiple):
            raise InvalidRequest(
                "decoder_tile",
                f"The decoder tile is {decoder_tile}; this model needs a multiple of {multiple}.",
            )
        (images,) = self.begin([request])
        if isinstance(images, GenerationError):
            raise images
        for image in images:
            image.decoder_tile = decoder_tile
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
        """Embed the texts of all requests in as few calls as may be, to be remembered.

        Where memory runs out nothing is: then each request has its own embedded alone.
        """
        texts = [text for request in requests for text in _texts(request)]
        try:
            if texts:
                self._networks.text.embed(texts)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        release(self._device)

    def _begin_images(
        self, request: GenerationRequest, embedded: Mapping[Told, Embedding]
    ) -> list[Denoising]:
        self._check_size(request)
        return [
            self._begin_image(request.alone(index), index, self._networks, embedded, posterior)
            for posterior in [_posterior(request, self._networks)]
            for index in range(request.count)
        ]

    def _check_size(self, request: GenerationRequest) -> None:
        multiple = self._profile.size_multiple
        for name, value in (("width", request.width), ("height", request.height)):
            if value % multiple:
                raise InvalidRequest(
                    name,
                    f"The {name} is {value}; the model {self._profile.name} needs a "
                    f"multiple of {multiple}.",
                )

    def _begin_image(
        self,
        request: GenerationRequest,
        index: int,
        networks: Networks,
        embedded: Mapping[Told, Embedding],
        posterior: Posterior | None,
    ) -> Denoising:
        sampler = Sampler(
            request.scheduler,
            networks.parts.scheduler_config,
            steps=request.steps,
            strength=request.strength,
        )
        guided = guidance.is_guided(request.guidance_scale)
        return Denoising(
            index=index,
            request=request,
            networks=networks,
            sampler=sampler,
            latents=_first_latents(request, sampler, networks, posterior),
            conditional=embedded[request.told].hidden,
            unconditional=embedded[request.told_negative].hidden if guided else None,
            unread_prompt=embedded[request.told].unread,
        )

    def _step_batch(self, batch: Batch[Denoising]) -> None:
        """Take a step of each image of `batch`, in smaller calls if memory runs out."""
        start = time.perf_counter()
        try:
            predictions = _predict(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            predictions = None
        seconds = time.perf_counter() - start
        self._on_sign("alive")
        # The error is gone by now, and with its traceback the tensors that its frames held.
        first = batch.images[0]
        if predictions is not None:
            for image, prediction in zip(batch.images, predictions, strict=True):
                image.latents = image.sampler.step(prediction, image.latents)
            if self._device.type == "cpu":
                # Elsewhere the call was only launched.
                first.networks.saw(
                    first.latents.shape, first.conditional.shape, batch.size, seconds
                )
            return
        release(self._device)
        log.warning("Out of memory at %s rows of %s", batch.size, tuple(first.latents.shape))
        if first.networks.shrink(first.latents.shape, first.conditional.shape, batch.size):
            for smaller in batching.plan(batch.images, _sizes):
                self._step_batch(smaller)
        else:
            for image in batch.images:
                image.failure = OutOfMemory()

    def _keep_pace(self) -> None:
        """Wait until the device has done what this step launched.

        Otherwise all steps would be launched at once, and nobody could join, leave or be told how
        far they are; and what goes wrong would come to light in a later call, in which others are.
        It costs next to nothing, since the next call waits for this one as soon as it brings
        timesteps to the device.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _check_latents(self, image: Denoising) -> bool:
        """Return whether the latents of `image` are numbers; else start it again or fail it."""
        if bool(torch.isfinite(image.latents).all()):
            return True
        self._start_in_float32(image)
        return False

    def _start_in_float32(self, image: Denoising) -> None:
        """Set `image` back to its first step, in float32; it has failed if it was that already."""
        if image.networks.parts.dtype == torch.float32 or self._load_in_float32 is None:
            image.failure = NotFinite()
            return
        log.warning("A picture overflowed in %s; it is made in float32", image.networks.parts.dtype)
        try:
            self._set_back(image, self._networks_in_float32(self._load_in_float32))
        except GenerationError as error:
            image.failure = error.with_traceback(None)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            image.failure = OutOfMemory()
        if image.failure is not None:
            release(self._device)

    def _set_back(self, image: Denoising, networks: Networks) -> None:
        request = image.request
        embedded = networks.text.embed(_texts(request))
        fresh = self._begin_image(
            request, image.index, networks, embedded, _posterior(request, networks)
        )
        image.networks, image.sampler, image.latents = networks, fresh.sampler, fresh.latents
        image.conditional, image.unconditional = fresh.conditional, fresh.unconditional

    def _networks_in_float32(self, load: Callable[[], Components]) -> Networks:
        networks = None if self._float32 is None else self._float32()
        if networks is None:
            self._on_sign("loading")
            # Few pictures need it, so measuring what they can share would not pay.
            networks = Networks(load(), exact=self._exact, compiled=False, shared=False)
            self._on_sign("alive")
            self._float32 = weakref.ref(networks)
            weakref.finalize(networks, self._regain_memory).atexit = False
        return networks

    def _regain_memory(self) -> None:
        """Use the memory again that the networks in float32 had taken."""
        release(self._device)
        self._networks.regrow()

    def _decode(self, images: Sequence[Denoising]) -> list[Pixels | None]:
        """Return the pictures of images of one key; None where one failed or starts again."""
        whole = [image for image in images if image.decoder_tile is None]
        pictures = self._decode_whole(whole)
        for image in images:
            if image not in pictures:
                pictures[image] = self._decode_in_tiles(image)
        decoded: list[Pixels | None] = []
        for image in images:
            picture = pictures[image]
            if picture is None:
                decoded.append(None)
            elif bool(torch.isfinite(picture).all()):
                decoded.append(to_pixels(picture))
            else:
                self._start_in_float32(image)
                decoded.append(None)
        return decoded

    def _decode_whole(self, images: Sequence[Denoising]) -> dict[Denoising, torch.Tensor | None]:
        """Return the pictures of `images`, or nothing where memory does not suffice."""
        if not images:
            return {}
        try:
            decoded = images[0].networks.autoencoder.decode([image.latents for image in images])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return dict(zip(images, decoded, strict=True))
        self._on_sign("alive")
        release(self._device)
        if len(images) == 1:
            return {}
        log.warning("Out of memory at decoding %s pictures; one by one now", len(images))
        return {
            image: picture
            for alone in images
            for image, picture in self._decode_whole([alone]).items()
        }

    def _decode_in_tiles(self, image: Denoising) -> torch.Tensor | None:
        """Return the picture of `image` decoded in smaller and smaller tiles, until one fits."""
        autoencoder = image.networks.autoencoder
        tile = image.decoder_tile or autoencoder.tile_for(image.latents)
        while tile is not None:
            try:
                self._on_sign("alive")
                picture = autoencoder.decode_in_tiles(image.latents, tile)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                image.decoder_tile = tile
                return picture
            release(self._device)
            tile = autoencoder.smaller(tile)
        image.failure = OutOfMemory()
        return None

    def _finished(self, image: Denoising, pixels: Pixels) -> GeneratedImage:
        recipe = self._recipe(image, pixels.sha256)
        return GeneratedImage(index=image.index, pixels=pixels, recipe=recipe)

    def _recipe(self, image: Denoising, sha256: str) -> Recipe:
        request, parts = image.request, image.networks.parts
        return Recipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            read_prompt=request.read_prompt,
            read_negative_prompt=request.read_negative_prompt,
            seed=request.seed,
            width=request.width,
            height=request.height,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            scheduler=request.scheduler,
            scheduler_settings=image.sampler.settings,
            model=parts.profile.name,
            model_sha256=parts.weights_sha256,
            dtype=str(parts.dtype).removeprefix("torch."),
            device=parts.device.type,
            source_sha256=request.pixels.sha256 if request.pixels else None,
            strength=request.strength,
            unread_prompt=image.unread_prompt,
            versions=self._versions,
            pixels_sha256=sha256,
            threads=torch.get_num_threads() if parts.device.type == "cpu" else None,
            decoder_tile=image.decoder_tile,
            compiled=True if image.networks.is_compiled_for(image.latents.shape) else None,
        )


def _texts(request: GenerationRequest) -> list[Told]:
    """Return the texts that a request needs embedded."""
    guided = guidance.is_guided(request.guidance_scale)
    return [request.told, request.told_negative] if guided else [request.told]


def _sizes(image: Denoising) -> Sizes:
    return image.networks.sizes(image.latents.shape, image.conditional.shape)


def _fail_shapes(images: Iterable[Denoising], failure: OutOfMemory) -> list[Denoising]:
    """Fail the images of shapes that do not fit at all, and return the others."""
    left = []
    for image in images:
        try:
            _sizes(image)
        except OutOfMemory:
            image.failure = failure.with_traceback(None)
        else:
            left.append(image)
    return left


def _posterior(request: GenerationRequest, networks: Networks) -> Posterior | None:
    """Return the encoder's view of the picture that a request starts from, if there is one."""
    return None if request.pixels is None else networks.autoencoder.posterior(request.pixels)


def _first_latents(
    request: GenerationRequest,
    sampler: Sampler,
    networks: Networks,
    posterior: Posterior | None,
) -> torch.Tensor:
    """Return the latents [1, channels, height, width] that the first step starts from."""
    draws = noise.generator(request.seed)
    if posterior is None:
        shape = networks.autoencoder.shape(request.width, request.height)
        return sampler.start_from_noise(networks.place(noise.draw(draws, shape)))
    # The order of the two draws is the pipeline's: the autoencoder's sample, then the noise.
    latents = networks.autoencoder.sample(posterior, draws)
    return sampler.start_from_latents(latents, networks.place(noise.draw(draws, latents.shape)))


def _predict(batch: Batch[Denoising]) -> list[torch.Tensor]:
    """Return the guided prediction for each image of `batch` from one UNet call.

    The unconditional rows come first; an image without guidance has none. Rows that are
    missing to the size of the call repeat the last one, and nobody looks at them.
    """
    guided = [image for image in batch.images if image.unconditional is not None]
    rows = [*guided, *batch.images]
    text = [
        *(image.unconditional for image in guided if image.unconditional is not None),
        *(image.conditional for image in batch.images),
    ]
    missing = batch.size - len(rows)
    scaled = [image.sampler.scale(image.latents) for image in rows]
    timesteps = [image.sampler.timestep for image in rows]
    predictions = batch.images[0].networks.unet(
        torch.cat([*scaled, *scaled[-1:] * missing]),
        torch.stack([*timesteps, *timesteps[-1:] * missing]).float(),
        torch.cat([*text, *text[-1:] * missing]),
    )
    unconditional = iter(_rows(predictions[: len(guided)]))
    conditional = _rows(predictions[len(guided) : len(rows)])
    return [
        prediction
        if image.unconditional is None
        else guidance.guide(next(unconditional), prediction, image.request.guidance_scale)
        for image, prediction in zip(batch.images, conditional, strict=True)
    ]


def _rows(batch: torch.Tensor) -> list[torch.Tensor]:
    """Return each row of `batch` as a batch of one."""
    return [batch[row : row + 1] for row in range(len(batch))]
