"""The pipelines of diffusers, to which the engine is compared, and a second model for both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from generation.images.pillow import to_image
from generation.models.networks import deterministic
from generation.schedulers.dpmpp_sde import DPMSolverSDE
from generation.schedulers.flow_heun import FlowHeunScheduler
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest

# As the documentation of diffusers maps the names of A1111 and k-diffusion. DPM++ SDE is the
# class of diffusers with our noise; tests/generation/schedulers/test_noise.py compares both.
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "lms": (LMSDiscreteScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_sde": (DPMSolverSDE, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "tcd": (TCDScheduler, {}),
}
# Heun is diffusers' step on diffusers' schedule of Euler; test_flow.py compares both.
FLOW_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (FlowMatchEulerDiscreteScheduler, {}),
    "heun": (FlowHeunScheduler, {}),
}
SPACINGS: dict[str | None, dict[str, Any]] = {
    None: {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "trailing": {"timestep_spacing": "trailing"},
}


def scheduler_of(request: GenerationRequest, kept: Any, settings: Mapping[str, Any]) -> Any:
    """Return the scheduler of a request, with `settings` over the config of a pipeline's own."""
    is_flow = isinstance(kept, FlowMatchEulerDiscreteScheduler)
    scheduler, own = (FLOW_SCHEDULERS if is_flow else SCHEDULERS)[request.scheduler]
    over = {**own, **SPACINGS[request.spacing], **settings}
    config = {**kept.config, **over}
    # What diffusers filled in by itself it would fill in again, over the settings.
    config["_use_default_values"] = [
        key for key in config.get("_use_default_values", ()) if key not in over
    ]
    return scheduler.from_config(config)


@dataclass(frozen=True)
class Pipelines:
    """Text to image and image to image by diffusers, on one model."""

    text: StableDiffusionPipeline | StableDiffusionXLPipeline
    image: StableDiffusionImg2ImgPipeline | StableDiffusionXLImg2ImgPipeline

    @classmethod
    def load(cls, folder: Path, *, stock: bool = False) -> Self:
        """Load both from a folder, in float32.

        Unless `stock`, their networks sum in the order of the engine's, so that what is left to
        compare, to the last bit, is all that the engine does itself.
        """
        text = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        if not stock:
            deterministic.prepare(text.unet, vector_layers=deterministic.UNET_VECTOR_LAYERS)
            deterministic.prepare(text.vae, vector_layers=deterministic.UNET_VECTOR_LAYERS)
        image = StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
        for pipeline in (text, image):
            pipeline.set_progress_bar_config(disable=True)
        return cls(text, image)

    def picture(self, request: GenerationRequest, **settings: Any) -> np.ndarray:
        """Return the first image of `request` with `settings` of the scheduler, [h, w, 3]."""
        pipeline = self.text if request.source is None else self.image
        kept = pipeline.scheduler
        pipeline.scheduler = scheduler_of(request, kept, settings)
        if request.source is None:
            options: dict[str, Any] = {"height": request.height, "width": request.width}
        else:
            options = {"image": to_image(request.source), "strength": request.strength}
        # diffusers has it in each pipeline but that of Stable Diffusion for image to image.
        if request.guidance_rescale is not None:
            options["guidance_rescale"] = request.guidance_rescale
        try:
            made = pipeline(
                request.prompt,
                negative_prompt=request.negative_prompt or None,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                # The noise that TCD adds; DDIM would add some too.
                eta=0.3 if request.scheduler == "tcd" else 0.0,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                **options,
            )
        finally:
            pipeline.scheduler = kept
        return np.asarray(made.images[0])


def pixels(image: GeneratedImage) -> np.ndarray:
    """Return the engine's picture as an array [height, width, 3]."""
    flat = np.frombuffer(image.pixels.rgb, np.uint8)
    return flat.reshape(image.pixels.height, image.pixels.width, 3)


def save_small_sd15(folder: Path) -> None:
    """Save an untrained model that has the shape of Stable Diffusion 1.5, but is tiny.

    77 tokens, an autoencoder that shrinks by 8 with the scaling factor 0.18215, a UNet of
    four levels and the scheduler's config of the original, which is for PNDM.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(15)
        pipeline = _small_sd15()
    pipeline.save_pretrained(folder)
    config = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config), encoding="utf-8")


def _small_sd15() -> StableDiffusionPipeline:
    tokenizer = byte_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.18215,
        sample_size=64,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def byte_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer of 77 tokens at most that knows single bytes and a few pairs."""
    # The bytes as GPT-2's byte-level BPE writes them: printable ones as they are, and the
    # others moved up to where every character can be seen.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    merges = [("r", "a"), ("c", "a"), ("ca", "t</w>"), ("ra", "b")]
    entries = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
