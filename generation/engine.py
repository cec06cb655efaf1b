"""The four components and the denoising loop, written by hand.

Read it next to "High-Resolution Image Synthesis with Latent Diffusion Models"
(Rombach et al. 2022, https://arxiv.org/abs/2112.10752): a prompt is embedded by CLIP, seeded
noise in the autoencoder's latent space is denoised step by step by the UNet under
classifier-free guidance, and the autoencoder's decoder turns the latents into pixels.

An engine belongs to one thread. `begin`, `step` and `finish` are the seam for whoever
drives it: images of several requests may be on their way at once, each at its own step.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from . import batching, guidance, noise
from .errors import InvalidRequest
from .models.stable_diffusion import Components
from .prompts import TokenizedPrompt, tokenize
from .request import GeneratedImage, GenerationRequest, Pixels, Progress, Recipe
from .samplers import Sampler

_LIBRARIES: Final = ("imagine-bot", "torch", "diffusers", "transformers")


@dataclass(slots=True, kw_only=True, eq=False)
class Denoising:
    """One image on its way from noise to picture; `request` asks for this image alone."""

    index: int
    request: GenerationRequest
    sampler: Sampler
    latents: torch.Tensor
    conditional: torch.Tensor
    unconditional: torch.Tensor | None
    unread_prompt: str

    @property
    def done(self) -> bool:
        """Return whether every step is taken and only decoding is left."""
        return self.sampler.taken == self.sampler.steps

    @property
    def progress(self) -> Progress:
        """Return how many of its steps are taken."""
        return Progress(self.sampler.taken, self.sampler.steps)

    @property
    def batch_key(self) -> tuple[int, ...]:
        """Return what has to agree in one UNet call: latent shape and text length."""
        return (*self.latents.shape[1:], self.conditional.shape[1])


class Engine:
    """A latent diffusion engine on one device, used by one thread.

    `images_per_call` bounds how many images share a UNet call. Kernels are chosen by shape,
    so the last bits of a picture may depend on it; at 1 a picture never depends on what
    else is made beside it.
    """

    def __init__(self, components: Components, *, images_per_call: int = 1) -> None:
        self._parts = components
        self._images_per_call = images_per_call
        self._versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}

    @torch.inference_mode()
    def begin(self, request: GenerationRequest) -> list[Denoising]:
        """Return the images of `request` at their first step, in order.

        Raises:
            InvalidRequest: the size does not fit the model.
        """
        self._check_size(request)
        prompt = self._tokenize(request.prompt)
        conditional = self._embed(prompt)
        unconditional = None
        if guidance.is_guided(request.guidance_scale):
            unconditional = self._embed(self._tokenize(request.negative_prompt))
        return [
            self._begin_image(
                request.alone(index), index, conditional, unconditional, prompt.unread
            )
            for index in range(request.count)
        ]

    @torch.inference_mode()
    def step(self, images: Sequence[Denoising]) -> None:
        """Take the next step of every image in `images` that is not done."""
        waiting = (image for image in images if not image.done)
        for batch in batching.plan(waiting, most=self._images_per_call):
            for image, prediction in zip(batch, self._predict(batch), strict=True):
                image.latents = image.sampler.step(prediction, image.latents)

    @torch.inference_mode()
    def finish(self, image: Denoising) -> GeneratedImage:
        """Return the decoded picture of an image that is done, with its recipe."""
        pixels = self._decode(image.latents)
        return GeneratedImage(
            index=image.index, pixels=pixels, recipe=self._recipe(image, pixels.sha256)
        )

    def generate(
        self,
        request: GenerationRequest,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> list[GeneratedImage]:
        """Return all images of `request`, calling `on_progress` after each step.

        Raises:
            InvalidRequest: the size does not fit the model.
        """
        images = self.begin(request)
        while not all(image.done for image in images):
            self.step(images)
            on_progress(images[0].progress)
        return [self.finish(image) for image in images]

    def _check_size(self, request: GenerationRequest) -> None:
        multiple = self._parts.profile.size_multiple
        for name, value in (("width", request.width), ("height", request.height)):
            if value % multiple:
                raise InvalidRequest(
                    name,
                    f"The {name} is {value}; the model {self._parts.profile.name} needs a "
                    f"multiple of {multiple}.",
                )

    def _tokenize(self, text: str) -> TokenizedPrompt:
        return tokenize(self._parts.tokenizer, text, self._parts.profile.token_limit)

    def _embed(self, prompt: TokenizedPrompt) -> torch.Tensor:
        """Return CLIP's last hidden states, [1, tokens, width]."""
        ids = torch.tensor([prompt.ids], device=self._parts.device)
        hidden: torch.Tensor = self._parts.text_encoder(ids)[0]
        return hidden.to(self._parts.dtype)

    def _begin_image(
        self,
        request: GenerationRequest,
        index: int,
        conditional: torch.Tensor,
        unconditional: torch.Tensor | None,
        unread_prompt: str,
    ) -> Denoising:
        sampler = Sampler(
            request.scheduler,
            self._parts.scheduler_config,
            steps=request.steps,
            strength=request.strength,
        )
        return Denoising(
            index=index,
            request=request,
            sampler=sampler,
            latents=self._first_latents(request, sampler),
            conditional=conditional,
            unconditional=unconditional,
            unread_prompt=unread_prompt,
        )

    def _first_latents(self, request: GenerationRequest, sampler: Sampler) -> torch.Tensor:
        """Return the latents [1, channels, height, width] that the first step starts from."""
        draws = noise.generator(request.seed)
        if request.source is None:
            return sampler.start_from_noise(self._place(noise.draw(draws, self._shape(request))))
        # The order of the two draws is the pipeline's: the autoencoder's sample, then the noise.
        latents = self._encode(request.source, draws)
        return sampler.start_from_latents(latents, self._place(noise.draw(draws, latents.shape)))

    def _shape(self, request: GenerationRequest) -> tuple[int, int, int, int]:
        vae = self._parts.vae.config
        factor = 2 ** (len(vae.block_out_channels) - 1)
        return (1, vae.latent_channels, request.height // factor, request.width // factor)

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=self._parts.device, dtype=self._parts.dtype)

    def _encode(self, source: Pixels, draws: torch.Generator) -> torch.Tensor:
        """Return a sample of the autoencoder's posterior for `source`, scaled for the UNet."""
        rgb = torch.frombuffer(bytearray(source.rgb), dtype=torch.uint8)
        image = rgb.reshape(1, source.height, source.width, 3).permute(0, 3, 1, 2)
        posterior = self._parts.vae.encode(
            self._place(2.0 * (image.to(torch.float32) / 255.0) - 1.0)
        ).latent_dist
        sample: torch.Tensor = posterior.mean + posterior.std * self._place(
            noise.draw(draws, posterior.mean.shape)
        )
        scaling_factor: float = self._parts.vae.config.scaling_factor
        return scaling_factor * sample

    def _predict(self, batch: Sequence[Denoising]) -> list[torch.Tensor]:
        """Return the guided prediction for each image of `batch` from one UNet call.

        The unconditional rows come first; an image without guidance has none.
        """
        guided = [image for image in batch if image.unconditional is not None]
        rows = [*guided, *batch]
        latents = torch.cat([image.sampler.scale(image.latents) for image in rows])
        timesteps = torch.stack([image.sampler.timestep for image in rows])
        text = torch.cat(
            [
                *(image.unconditional for image in guided if image.unconditional is not None),
                *(image.conditional for image in batch),
            ]
        )
        predictions = self._parts.unet(
            latents, timesteps.to(self._parts.device), encoder_hidden_states=text, return_dict=False
        )[0]
        unconditional = iter(predictions[: len(guided)].split(1))
        return [
            conditional
            if image.unconditional is None
            else guidance.guide(next(unconditional), conditional, image.request.guidance_scale)
            for image, conditional in zip(batch, predictions[len(guided) :].split(1), strict=True)
        ]

    def _decode(self, latents: torch.Tensor) -> Pixels:
        vae = self._parts.vae
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        unit = (decoded * 0.5 + 0.5).clamp(0, 1).float().cpu()
        rgb = (unit[0].permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous()
        height, width, _ = rgb.shape
        return Pixels(width, height, rgb.numpy().tobytes())

    def _recipe(self, image: Denoising, sha256: str) -> Recipe:
        request = image.request
        return Recipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            width=request.width,
            height=request.height,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            scheduler=request.scheduler,
            scheduler_settings=image.sampler.settings,
            model=self._parts.profile.name,
            model_sha256=self._parts.weights_sha256,
            dtype=str(self._parts.dtype).removeprefix("torch."),
            device=self._parts.device.type,
            source_sha256=request.source.sha256 if request.source else None,
            strength=request.strength,
            unread_prompt=image.unread_prompt,
            versions=self._versions,
            pixels_sha256=sha256,
            threads=torch.get_num_threads() if self._parts.device.type == "cpu" else None,
        )
