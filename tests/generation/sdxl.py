"""A tiny Stable Diffusion XL in the layout of its release, and diffusers' pipelines on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from generation.models.networks import deterministic

from .pipelines import Pipelines, byte_tokenizer

_WIDTHS: Final = (16, 24)
_PROJECTION: Final = 20
_SIZE_WIDTH: Final = 8
SCHEDULER: Final = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
"""The config of the first release."""


def make_sdxl(
    folder: Path,
    *,
    vae: Mapping[str, Any] | None = None,
    unet: Mapping[str, Any] | None = None,
) -> None:
    """Save an untrained Stable Diffusion XL for pictures of 64 pixels, always the same.

    `vae` and `unet` are further values for the configs of these networks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(10)
        pipeline = _pipeline(vae or {}, unet or {})
    pipeline.save_pretrained(folder)
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(SCHEDULER, indent=2), encoding="utf-8")


def _pipeline(vae: Mapping[str, Any], unet: Mapping[str, Any]) -> StableDiffusionXLPipeline:
    first = byte_tokenizer()
    # The second tokenizer pads with "!", as in the release.
    second = CLIPTokenizer(
        vocab=first.get_vocab(), merges=[("r", "a")], model_max_length=77, pad_token="!"
    )
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            scaling_factor=0.13025,
            sample_size=64,
            **vae,
        ),
        text_encoder=CLIPTextModel(_text(first, _WIDTHS[0], "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(_text(second, _WIDTHS[1], "gelu")),
        tokenizer=first,
        tokenizer_2=second,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            cross_attention_dim=sum(_WIDTHS),
            addition_embed_type="text_time",
            addition_time_embed_dim=_SIZE_WIDTH,
            projection_class_embeddings_input_dim=6 * _SIZE_WIDTH + _PROJECTION,
            **unet,
        ),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def _text(tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=_PROJECTION,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


class SDXLPipelines(Pipelines):
    """Text to image and image to image by diffusers, on one model."""

    @classmethod
    def load(cls, folder: Path, *, stock: bool = False) -> Self:
        """Load both from a folder, in float32.

        Unless `stock`, their networks sum in the order of the engine's.
        """
        text = StableDiffusionXLPipeline.from_pretrained(
            folder, dtype=torch.float32, add_watermarker=False
        )
        if not stock:
            layers = deterministic.UNET_VECTOR_LAYERS
            deterministic.prepare(text.unet, vector_layers=layers)
            deterministic.prepare(text.vae, vector_layers=layers)
            deterministic.prepare(text.text_encoder_2, vector_layers=("text_projection",))
        image = StableDiffusionXLImg2ImgPipeline(**text.components, add_watermarker=False)
        for pipeline in (text, image):
            pipeline.set_progress_bar_config(disable=True)
        return cls(text, image)


def reference_sdxl(folder: Path, *, stock: bool = False) -> SDXLPipelines:
    """Return the pipelines of diffusers on the model that `make_sdxl` saved in `folder`."""
    return SDXLPipelines.load(folder, stock=stock)
