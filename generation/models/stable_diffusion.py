"""Stable Diffusion 1 and 2: one text encoder, one UNet, one autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..catalog.profile import ModelProfile


@dataclass(frozen=True)
class Components:
    """The loaded parts of one model.

    `device` is where the parts run, and where their inputs have to be; `dtype` is the type
    of their weights. Only the engine's own thread may call them.
    """

    tokenizer: CLIPTokenizer = field(repr=False)
    text_encoder: CLIPTextModel = field(repr=False)
    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    scheduler_config: Mapping[str, Any] = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    profile: ModelProfile
    weights_sha256: str
