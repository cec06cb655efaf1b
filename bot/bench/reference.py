"""diffusers' own pipeline on the same weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch

from generation.catalog.profile import ModelProfile
from generation.libraries import quiet
from generation.models.networks import deterministic
from generation.models.networks.devices import choose_device, choose_dtype
from generation.values.request import GenerationRequest

PixelArray = npt.NDArray[np.uint8]


class Reference:
    """Makes pictures one after the other with `StableDiffusionPipeline`.

    With `compiled` its UNet is compiled as diffusers' documentation advises. The thread that loads
    it must also run it: OpenMP keeps a pool of threads for each thread that computes, and with two
    pools everything takes about twice as long.
    """

    def __init__(
        self,
        profile: ModelProfile,
        *,
        device: str | None,
        dtype: str | None,
        compiled: bool = False,
    ) -> None:
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device, profile.half)
        with quiet():
            # diffusers loads this class at its first use, and then warns of missing torchvision.
            pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(
                profile.folder, dtype=self.dtype, use_safetensors=True, local_files_only=True
            )
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline.to(self.device)
        if compiled:
            self._pipeline.unet = torch.compile(self._pipeline.unet, fullgraph=True)

    def picture(self, request: GenerationRequest) -> PixelArray:
        """Return the picture of a request, [height, width, 3]."""
        made = self._pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            generator=torch.Generator("cpu").manual_seed(request.seed),
        )
        return np.asarray(made.images[0])

    def timed(self, requests: Sequence[GenerationRequest]) -> tuple[list[PixelArray], list[float]]:
        """Return the pictures, and after how many seconds each was finished."""
        start = time.perf_counter()
        pictures, ends = [], []
        for request in requests:
            pictures.append(self.picture(request))
            ends.append(time.perf_counter() - start)
        return pictures, ends

    def sum_like_the_engine(self) -> None:
        """Prepare the networks as the engine does, so that only the code around them differs."""
        deterministic.prepare(self._pipeline.unet, vector_layers=deterministic.UNET_VECTOR_LAYERS)
        deterministic.prepare(self._pipeline.vae, vector_layers=deterministic.UNET_VECTOR_LAYERS)

    @property
    def name(self) -> str:
        """Return the name of the device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"
