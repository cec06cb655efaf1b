"""The equations of denoising, next to the papers that they come from.

- Latent diffusion: Rombach et al. 2022, https://arxiv.org/abs/2112.10752
- Classifier-free guidance, see `generation.models.guidance`
- Image to image from a middle step (SDEdit): Meng et al. 2022, https://arxiv.org/abs/2108.01073

The arithmetic of a single step is the scheduler's: see `generation.schedulers.sampler`.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..catalog.profile import ModelProfile
from ..errors import GenerationError
from ..models.family import Conditioning, Posterior
from ..models.guidance import rescale
from ..schedulers.sampler import Sampler
from ..values.events import Progress
from ..values.request import GenerationRequest, Told
from . import noise
from .adaptation import Adaptation
from .batching import Batch
from .embeddings import Embedding
from .networks import EncodedPictures, Networks


@dataclass(frozen=True, slots=True)
class SuspendedImage:
    """An image whose networks were taken from it; `in_float32` says that it overflowed before.

    The image is gone when nobody needs it any more.
    """

    image: weakref.ref[Denoising]
    in_float32: bool


@dataclass(slots=True, weakref_slot=True, kw_only=True, eq=False)
class Denoising:
    """One image on its way from noise to picture; `request` asks for this image alone.

    `failure` says why there will be no picture. `decoder_tile` is the edge of the tiles, in pixels,
    if the picture is decoded in tiles.
    """

    index: int
    request: GenerationRequest
    networks: Networks
    sampler: Sampler
    latents: torch.Tensor
    conditional: Conditioning
    unconditional: Conditioning | None
    unread_prompt: str
    adaptation: Adaptation | None = None
    decoder_tile: int | None = None
    failure: GenerationError | None = None

    @property
    def done(self) -> bool:
        """Return whether every step is taken and only decoding is left."""
        return self.sampler.done

    @property
    def progress(self) -> Progress:
        """Return how many of the image's steps are taken."""
        return Progress(self.sampler.taken, self.sampler.steps)

    @property
    def rows(self) -> int:
        """Return how many rows the image adds to a call of the network."""
        return 1 if self.unconditional is None or self.takes_two_calls else 2

    @property
    def takes_two_calls(self) -> bool:
        """Return whether the two texts of the image have different shapes."""
        return self.unconditional is not None and self.unconditional.shape != self.conditional.shape

    @property
    def told(self) -> tuple[Conditioning, ...]:
        """Return what the calls of a step are told: the texts, if each takes a call of its own."""
        if self.unconditional is not None and self.takes_two_calls:
            return self.conditional, self.unconditional
        return (self.conditional,)

    @property
    def batch_key(self) -> Hashable:
        """Return what has to agree within one call of the network."""
        model, shape = self.networks.model, self.latents.shape
        loras = None if self.adaptation is None else self.adaptation.key
        return loras, *(model.batch_key(shape, told) for told in self.told)

    def suspend(self, usual: Networks) -> SuspendedImage:
        """Let go of the networks; they were other ones than `usual` after an overflow."""
        in_float32 = self.networks is not usual
        del self.networks
        return SuspendedImage(weakref.ref(self), in_float32)

    def restart(self, networks: Networks) -> None:
        """Go back to the first step, on other networks."""
        told = texts(self.request, networks.model.profile)
        embedded = networks.text.embed(told, self.adaptation)
        pictures = networks.encode_pictures(self.request)
        first = begin(
            self.request, self.index, networks, embedded, pictures, adaptation=self.adaptation
        )
        self.networks, self.sampler, self.latents = networks, first.sampler, first.latents
        self.conditional, self.unconditional = first.conditional, first.unconditional


def texts(request: GenerationRequest, profile: ModelProfile) -> list[Told]:
    """Return the texts of a request that the model reads: without guidance, the prompt alone."""
    if request.is_guided and profile.is_guided:
        return [request.told, request.told_negative]
    return [request.told]


def begin(
    request: GenerationRequest,
    index: int,
    networks: Networks,
    embedded: Mapping[Told, Embedding],
    pictures: EncodedPictures,
    *,
    adaptation: Adaptation | None = None,
) -> Denoising:
    """Return image `index` of a job at its first step; `request` asks for this image alone.

    `adaptation` are the LoRAs that `embedded` was made with.
    """
    model = networks.model
    # All draws of an image come from one generator: the schedule's follow those made here.
    draws = noise.generator(request.seed)
    sampler = Sampler(
        request.scheduler,
        model.scheduler_config,
        steps=request.steps,
        strength=request.strength,
        settings=model.schedule(request.width, request.height, request.steps),
        spacing=request.spacing,
        draws=draws,
    )
    is_guided = request.is_guided and model.profile.is_guided
    positive = embedded[request.told]
    negative = embedded[request.told_negative] if is_guided else None
    seen = {**pictures.references, **model.embed_guidance(request.guidance_scale)}
    return Denoising(
        index=index,
        request=request,
        networks=networks,
        sampler=sampler,
        latents=first_latents(request, sampler, networks, pictures.posterior, draws),
        conditional=positive.conditioning.beside(seen),
        unconditional=None if negative is None else negative.conditioning.beside(seen),
        unread_prompt=positive.unread,
        adaptation=adaptation,
        decoder_tile=networks.autoencoder.tile_by_settings(request.width, request.height),
    )


def begin_all(
    request: GenerationRequest,
    networks: Networks,
    embedded: Mapping[Told, Embedding],
    adaptation: Adaptation | None,
) -> list[Denoising]:
    """Return all images of a job at their first step; its pictures are encoded once for all."""
    pictures = networks.encode_pictures(request)
    return [
        begin(request.alone(index), index, networks, embedded, pictures, adaptation=adaptation)
        for index in range(request.count)
    ]


def first_latents(
    request: GenerationRequest,
    sampler: Sampler,
    networks: Networks,
    posterior: Posterior | None,
    draws: torch.Generator,
) -> torch.Tensor:
    """Return the latents [1, channels, height, width] that the first step starts from.

    These are noise at the scale of the schedule, or a sample of `posterior` with the noise of the
    first step that is taken.
    """
    if posterior is None:
        shape = networks.model.latent_shape(request.width, request.height)
        return sampler.start_from_noise(networks.place(noise.draw(draws, shape)))
    # diffusers' pipeline draws in this order too: the autoencoder's sample, then the noise.
    latents = networks.autoencoder.sample(posterior, draws)
    return sampler.start_from_latents(latents, networks.place(noise.draw(draws, latents.shape)))


def predict(batch: Batch[Denoising]) -> list[torch.Tensor]:
    """Return the guided prediction for each image of `batch`.

    It takes one call of the network, in which the unconditional rows come first; an image without
    guidance has none. If the two texts of the images have different shapes, it takes two calls.
    """
    images = batch.images
    guided = [image for image in images if image.unconditional is not None]
    negative = [image.unconditional for image in guided if image.unconditional is not None]
    positive = [image.conditional for image in images]
    if images[0].takes_two_calls:
        unconditional = _call(guided, negative, batch.size)
        conditional = _call(images, positive, batch.size)
    else:
        rows = _call([*guided, *images], [*negative, *positive], batch.size)
        unconditional, conditional = rows[: len(guided)], rows[len(guided) :]
    pushed = iter(unconditional)
    return [
        prediction if image.unconditional is None else _guided(image, next(pushed), prediction)
        for image, prediction in zip(images, conditional, strict=True)
    ]


def _guided(
    image: Denoising, unconditional: torch.Tensor, conditional: torch.Tensor
) -> torch.Tensor:
    request = image.request
    guided = image.networks.model.guide(unconditional, conditional, request.guidance_scale)
    if not request.guidance_rescale:
        return guided
    return rescale(guided, conditional, request.guidance_rescale)


def _call(rows: Sequence[Denoising], told: Sequence[Conditioning], size: int) -> list[torch.Tensor]:
    """Return the network's prediction for each of `rows`, [1, channels, height, width].

    The last row is repeated up to the `size` of the call, and the predictions for the repetitions
    are dropped.
    """
    missing = size - len(rows)
    scaled = [image.sampler.scale(image.latents) for image in rows]
    timesteps = [image.sampler.timestep for image in rows]
    predictions = rows[0].networks.predict(
        torch.cat([*scaled, *scaled[-1:] * missing]),
        torch.stack([*timesteps, *timesteps[-1:] * missing]).float(),
        Conditioning.stack([*told, *[told[-1]] * missing]),
        rows[0].adaptation,
    )
    return [predictions[row : row + 1] for row in range(len(rows))]
