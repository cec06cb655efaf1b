"""A tiny FLUX.2 klein in the layout of its release, and diffusers' pipelines on that model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    Flux2KleinInpaintPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from PIL import Image

from generation.images.pillow import to_image
from generation.models.flux2_klein import VECTOR_LAYERS
from generation.models.networks import deterministic
from generation.values.request import GenerationRequest

from .pipelines import scheduler_of
from .qwen3 import save_tokenizer, small_qwen3

_WIDTH: Final = 32
_HEADS: Final = 4
# The last hidden states that the transformer reads are those after 27 layers.
_LAYERS: Final = 29


def make_flux2_klein(folder: Path, *, distilled: bool = True) -> None:
    """Save an untrained FLUX.2 klein, always the same.

    Its weights are in several files with an index, as those of the release. The encoder's config
    is in the form of transformers 4. `distilled` is as in the release of 4 steps; the base model is
    not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(27)
        encoder = small_qwen3(layers=_LAYERS, width=_WIDTH)
        transformer, vae = _transformer(), _vae()
    save_tokenizer(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder", max_shard_size="200KB")
    transformer.save_pretrained(folder / "transformer", max_shard_size="200KB")
    vae.save_pretrained(folder / "vae")
    _write(folder / "model_index.json", _INDEX | {"is_distilled": distilled})
    _write(folder / "scheduler/scheduler_config.json", _SCHEDULER)
    config = json.loads((folder / "text_encoder/config.json").read_text(encoding="utf-8"))
    theta = config.pop("rope_parameters")["rope_theta"]
    config |= {"rope_scaling": None, "rope_theta": theta, "use_sliding_window": False}
    _write(folder / "text_encoder/config.json", config)


_INDEX: Final = {
    "_class_name": "Flux2KleinPipeline",
    "_diffusers_version": "0.37.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3ForCausalLM"],
    "tokenizer": ["transformers", "Qwen2TokenizerFast"],
    "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}
_SCHEDULER: Final = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.37.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}


def _transformer() -> Flux2Transformer2DModel:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=8,
        num_attention_heads=_HEADS,
        joint_attention_dim=3 * _WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    # Otherwise text and references would hardly change a picture, and nobody would see mistakes.
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if weight.ndim > 1 and "time_guidance" not in name and "modulation" not in name:
                weight.mul_(3)
    return transformer


def _vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )
    # Those of an untrained model say nothing, and then nobody would see whether they are used.
    channels = len(vae.bn.running_mean)
    vae.bn.running_mean.copy_(torch.linspace(-0.1, 0.1, channels))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, channels))
    return vae


def edit(file: Path, **changes: Any) -> None:
    """Change values in a JSON file of a model."""
    _write(file, json.loads(file.read_text(encoding="utf-8")) | changes)


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class Flux2KleinPipelines:
    """Text to image, editing and image to image by diffusers, on one model."""

    text: Flux2KleinPipeline
    image: Flux2KleinInpaintPipeline

    @classmethod
    def load(cls, folder: Path, *, stock: bool = False) -> Self:
        """Load both from a folder, in float32.

        Unless `stock`, their networks sum in the order of the engine's.
        """
        text = Flux2KleinPipeline.from_pretrained(folder, dtype=torch.float32)
        if not stock:
            deterministic.prepare(text.transformer, vector_layers=VECTOR_LAYERS)
            deterministic.prepare(text.vae)
        image = Flux2KleinInpaintPipeline(**text.components, is_distilled=text.config.is_distilled)
        for pipeline in (text, image):
            pipeline.set_progress_bar_config(disable=True)
        return cls(text, image)

    def picture(
        self, request: GenerationRequest, references: Sequence[Image.Image] = (), **settings: Any
    ) -> np.ndarray:
        """Return the first image of `request` with `settings` of the scheduler, [h, w, 3].

        `references` are the pictures before they became those of the request. The pipeline that
        starts from a picture always looks at that picture, so it has to be the first reference.
        """
        pictures = list(references) or [to_image(one) for one in request.reference_pixels]
        pipeline = self.text if request.pixels is None else self.image
        if request.pixels is None:
            options: dict[str, Any] = {"image": pictures or None}
        else:
            assert request.references[0] == request.pixels
            options = {
                "image": to_image(request.pixels),
                # White everywhere: the pipeline for a part of a picture then makes all of it.
                "mask_image": Image.new("L", (request.width, request.height), 255),
                "image_reference": pictures[1:] or None,
                "strength": request.strength,
            }
        if request.negative_prompt:
            options["negative_prompt_embeds"] = self.text.encode_prompt(request.negative_prompt)[0]
        kept = pipeline.scheduler
        pipeline.scheduler = scheduler_of(request, kept, settings)
        try:
            made = pipeline(
                prompt=request.prompt,
                height=request.height,
                width=request.width,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                **options,
            )
        finally:
            pipeline.scheduler = kept
        return np.asarray(made.images[0])
