"""A Z-Image that is tiny, in the layout of its release, and the pipelines of diffusers on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from generation.images.pillow import to_image
from generation.models.networks import deterministic
from generation.models.z_image import VECTOR_LAYERS
from generation.values.request import GenerationRequest

from .pipelines import scheduler_of
from .qwen3 import save_tokenizer, small_qwen3

# Z-Image says this; Z-Image-Turbo says 3.
BASE_SHIFT: Final = 6.0
TURBO_SHIFT: Final = 3.0
_WIDTH: Final = 32
_INDEX: Final = {
    "_class_name": "ZImagePipeline",
    "_diffusers_version": "0.37.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def make_z_image(folder: Path, *, shift: float = BASE_SHIFT) -> None:
    """Save an untrained Z-Image for pictures of 64 pixels, always the same.

    Its weights are in several files with an index, as those of the release. The encoder's config
    is in the form of transformers 4.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(26)
        encoder, transformer, vae = small_qwen3(width=_WIDTH), _transformer(), _vae()
    save_tokenizer(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder", max_shard_size="50KB")
    transformer.save_pretrained(folder / "transformer", max_shard_size="200KB")
    vae.save_pretrained(folder / "vae")
    _write(folder / "model_index.json", _INDEX)
    _write(
        folder / "scheduler/scheduler_config.json",
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "_diffusers_version": "0.37.0.dev0",
            "num_train_timesteps": 1000,
            "use_dynamic_shifting": False,
            "shift": shift,
        },
    )
    config = json.loads((folder / "text_encoder/config.json").read_text(encoding="utf-8"))
    theta = config.pop("rope_parameters")["rope_theta"]
    config |= {"rope_scaling": None, "rope_theta": theta, "use_sliding_window": False}
    _write(folder / "text_encoder/config.json", config)


def _transformer() -> ZImageTransformer2DModel:
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=_WIDTH,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=_WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1536, 512, 512],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        # They are zeros at first, and then nobody would see whether padding is padded.
        torch.nn.init.normal_(token)
    return transformer


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )


def edit(file: Path, **changes: Any) -> None:
    """Change values in a JSON file of a model."""
    _write(file, json.loads(file.read_text(encoding="utf-8")) | changes)


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class ZImagePipelines:
    """Text to image and image to image by diffusers, on one model."""

    text: ZImagePipeline
    image: ZImageImg2ImgPipeline

    def picture(self, request: GenerationRequest, **settings: Any) -> np.ndarray:
        """Return the first image of `request` with `settings` of the scheduler, [h, w, 3]."""
        pipeline = self.text if request.source is None else self.image
        kept = pipeline.scheduler
        pipeline.scheduler = scheduler_of(request, kept, settings)
        options: dict[str, Any] = {"height": request.height, "width": request.width}
        if request.source is not None:
            options |= {"image": to_image(request.source), "strength": request.strength}
        try:
            made = pipeline(
                request.prompt,
                negative_prompt=request.negative_prompt or None,
                num_inference_steps=request.steps,
                # The pipeline counts from 0 where everybody else counts from 1.
                guidance_scale=request.guidance_scale - 1.0,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                **options,
            )
        finally:
            pipeline.scheduler = kept
        return np.asarray(made.images[0])


def reference_z_image(
    folder: Path, *, stock: bool = False, dtype: torch.dtype = torch.float32
) -> ZImagePipelines:
    """Return both pipelines on the model in a folder.

    Unless `stock`, their networks sum in the order of the engine's.
    """
    text = ZImagePipeline.from_pretrained(folder, dtype=dtype)
    if not stock:
        deterministic.prepare(text.transformer, vector_layers=VECTOR_LAYERS)
        deterministic.prepare(text.vae)
    image = ZImageImg2ImgPipeline(**text.components)
    for pipeline in (text, image):
        pipeline.set_progress_bar_config(disable=True)
    return ZImagePipelines(text, image)
