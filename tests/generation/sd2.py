"""A tiny Stable Diffusion 2 in the layout of its release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .pipelines import Pipelines, byte_tokenizer

_WIDTH: Final = 32
SCHEDULER: Final = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.10.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""The config of the first release for 768 pixels."""


def make_sd2(folder: Path, **unet: Any) -> None:
    """Save an untrained Stable Diffusion 2 for pictures of 64 pixels, always the same.

    `unet` are further values for the config of the UNet.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        _pipeline(unet).save_pretrained(folder)
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(SCHEDULER, indent=2), encoding="utf-8")


def _pipeline(unet_values: Mapping[str, Any]) -> StableDiffusionPipeline:
    plain = byte_tokenizer()
    tokenizer = CLIPTokenizer(
        vocab=plain.get_vocab(), merges=[("r", "a")], model_max_length=77, pad_token="!"
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        projection_dim=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=_WIDTH,
        use_linear_projection=True,
        upcast_attention=True,
        **unet_values,
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
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def reference_sd2(folder: Path, *, stock: bool = False) -> Pipelines:
    """Return the pipelines of diffusers on the model that `make_sd2` saved in `folder`."""
    return Pipelines.load(folder, stock=stock)
