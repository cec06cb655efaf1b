"""A tiny Stable Diffusion 3.5 in the layout of its release, and diffusers' pipelines on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from generation.images.pillow import to_image
from generation.models.networks import deterministic
from generation.models.stable_diffusion_3 import VECTOR_LAYERS
from generation.values.request import GenerationRequest

from .pipelines import byte_tokenizer, scheduler_of

_WIDTHS: Final = (16, 24)
_PROJECTIONS: Final = (12, 20)
_T5_WIDTH: Final = 48
_T5_PARTS: Final = ("text_encoder_3", "tokenizer_3")
_HEADS: Final = 2
_HEAD_WIDTH: Final = 16
SCHEDULER: Final = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.29.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
"""The config of the release."""


def make_sd3(folder: Path, *, with_t5: bool = True) -> None:
    """Save an untrained Stable Diffusion 3.5 for pictures of 64 pixels, always the same.

    Without T5 the third text encoder and its tokenizer are null in `model_index.json`, as diffusers
    saves a pipeline that was loaded without them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(35)
        pipeline = _pipeline()
    if not with_t5:
        pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.save_pretrained(folder)
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(SCHEDULER, indent=2), encoding="utf-8")


def _pipeline() -> StableDiffusion3Pipeline:
    first = byte_tokenizer()
    # The second tokenizer pads with "!", as in the release.
    second = CLIPTokenizer(
        vocab=first.get_vocab(), merges=[("r", "a")], model_max_length=77, pad_token="!"
    )
    third = t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            sample_size=64,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModelWithProjection(_clip(first, 0, "quick_gelu")),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(_clip(second, 1, "gelu")),
        tokenizer_2=second,
        text_encoder_3=T5EncoderModel(
            T5Config(
                vocab_size=len(third) + 5,
                d_model=_T5_WIDTH,
                d_kv=12,
                d_ff=96,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        ),
        tokenizer_3=third,
    )


def _transformer() -> SD3Transformer2DModel:
    """Return a transformer with all that version 3.5 has in its medium size."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=3,
        attention_head_dim=_HEAD_WIDTH,
        num_attention_heads=_HEADS,
        joint_attention_dim=_T5_WIDTH,
        caption_projection_dim=_HEADS * _HEAD_WIDTH,
        pooled_projection_dim=sum(_PROJECTIONS),
        out_channels=16,
        pos_embed_max_size=128,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )


def _clip(tokenizer: CLIPTokenizer, number: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTHS[number],
        intermediate_size=2 * _WIDTHS[number],
        projection_dim=_PROJECTIONS[number],
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def t5_tokenizer() -> T5Tokenizer:
    """Return a tokenizer of a few pieces, with the marks and the extra tokens that T5 has."""
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyzé,.!"]
    pieces = [("▁cat", -3.0), ("▁a", -2.5), ("▁apple", -3.0), ("▁red", -3.0)]
    extra = [(f"<extra_id_{number}>", 0.0) for number in range(99, -1, -1)]
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*marks, *pieces, *letters, *extra], model_max_length=512)


def edit(file: Path, **changes: Any) -> None:
    """Change values in a JSON file of a model."""
    values = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(values, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class SD3Pipelines:
    """Text to image and image to image by diffusers, on one model."""

    text: StableDiffusion3Pipeline
    image: StableDiffusion3Img2ImgPipeline

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
                guidance_scale=request.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                **options,
            )
        finally:
            pipeline.scheduler = kept
        return np.asarray(made.images[0])


def reference_sd3(
    folder: Path, *, stock: bool = False, dtype: torch.dtype = torch.float32
) -> SD3Pipelines:
    """Return both pipelines of diffusers on the model that `make_sd3` saved in `folder`.

    Unless `stock`, their networks sum in the order of the engine's.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    # diffusers wants to be told of what a model lacks.
    lacking = {part: None for part in _T5_PARTS if not (index.get(part) or [None])[0]}
    text = StableDiffusion3Pipeline.from_pretrained(folder, dtype=dtype, **lacking)
    if not stock:
        deterministic.prepare(text.transformer, vector_layers=VECTOR_LAYERS)
        deterministic.prepare(text.vae)
    image = StableDiffusion3Img2ImgPipeline(**text.components)
    for pipeline in (text, image):
        pipeline.set_progress_bar_config(disable=True)
    return SD3Pipelines(text, image)
