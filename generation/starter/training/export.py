"""From checkpoints to a model's folder in diffusers' layout, in float16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from ...weights import quiet
from .autoencoder import trained
from .diffusion import Denoiser
from .networks import Shape, new_text_encoder, new_unet, noise_schedule
from .progress import read
from .vocabulary import read_tokenizer

DEFAULTS: Final = {"steps": 25, "guidance_scale": 4.0}


def export(work: Path, folder: Path, shape: Shape) -> None:
    """Write the model that is trained in `work`, with its averaged weights, to `folder`.

    Raises:
        FileNotFoundError: a part is not trained yet.
    """
    state = read(work / "diffusion.pt")
    if state is None:
        raise FileNotFoundError(f"{work} holds no diffusion.pt; train the UNet first.")
    tokenizer = read_tokenizer(work / "tokenizer")
    network = Denoiser(new_unet(shape), new_text_encoder(shape, tokenizer))
    network.load_state_dict(state["average"])
    autoencoder = trained(shape, work)
    autoencoder.register_to_config(scaling_factor=state["facts"]["scale"])
    save_model(folder, autoencoder, network, tokenizer)


def save_model(folder: Path, autoencoder: Any, network: Denoiser, tokenizer: Any) -> None:
    """Write the four parts, the scheduler's settings and the defaults to `folder`."""
    with quiet():
        pipeline = StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=network.text_encoder,
            tokenizer=tokenizer,
            unet=network.unet,
            scheduler=noise_schedule(DDIMScheduler, set_alpha_to_one=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
    (folder / "defaults.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", "utf-8")
