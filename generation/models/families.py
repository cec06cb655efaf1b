"""The families of models that the engine can run: one row for each.

Importing this module loads no torch: `load` of a row imports the family's class.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from ..catalog.checkpoint import SingleFile
from ..catalog.layout import Layout, network, tokenizer
from ..catalog.profile import Family, family_for
from ..values.request import REFERENCES_MAX, SIZE_MAX
from .describing.facts import (
    Fact,
    at_least,
    channels,
    described,
    fits,
    given,
    has,
    index_says,
    native_size,
    number,
    only,
    positions,
    sets,
    size,
    size_multiple,
    where,
)
from .describing.schedules import diffusion, flow, has_shift, own_scheduler, takes_few_steps
from .describing.texts import clip_texts, reads_inversions, texts

# A UNet that sets one of these needs more than latents, a timestep, a prompt and a size.
_MORE_CONDITIONS: Final = ("class_embed_type", "encoder_hid_dim_type")
# What diffusers' pipelines read of a text, with the chat around it.
_QWEN_TOKENS: Final = 512
_QWEN3: Final = (
    at_least("text_encoder", "num_hidden_layers", 1, absent=32),
    number("text_encoder", "rms_norm_eps", 1e-6, 0.0, 1.0),
)
_UNGUIDED: Final = given(default_guidance_scale=1.0)
_FEW_STEPS: Final = (
    where(takes_few_steps, own_scheduler, given(default_steps=4), _UNGUIDED),
    # The UNet of a latent consistency model reads the guidance scale, and is not guided besides.
    # The scale is that of diffusers' pipeline.
    where(
        sets("unet", "time_cond_proj_dim"),
        at_least("unet", "time_cond_proj_dim", 4),
        own_scheduler,
        given(default_steps=4, default_guidance_scale=8.5, is_guided=False, reads_guidance=True),
    ),
)


def _unet_of_clip(*encoders: str) -> tuple[Fact, ...]:
    """Return what a UNet of diffusion and CLIP's text encoders, which it reads, have to fit."""
    return (
        size_multiple(least=8),
        channels("unet", 4),
        fits(
            "unet",
            "cross_attention_dim",
            [size(encoder, "hidden_size", 512) for encoder in encoders],
            "the text encoder's {}",
            is_listed=True,
        ),
        native_size("unet", in_latents=True),
        clip_texts({encoder: encoder.replace("text_encoder", "tokenizer") for encoder in encoders}),
        reads_inversions(*encoders),
        diffusion,
    )


def _class(module: str, name: str) -> Callable[[], Any]:
    """Return what imports the class of a family, which loads torch."""
    return lambda: getattr(import_module(f".{module}", __package__), name)


STABLE_DIFFUSION: Final = Family(
    name="Stable Diffusion 1 or 2",
    layout=Layout(
        pipelines=frozenset(
            {
                "StableDiffusionPipeline",
                "StableDiffusionImg2ImgPipeline",
                "LatentConsistencyModelPipeline",
            }
        ),
        parts={
            "tokenizer": tokenizer("CLIPTokenizer", "CLIPTokenizerFast"),
            "text_encoder": network("transformers", "CLIPTextModel"),
            "unet": network("diffusers", "UNet2DConditionModel"),
            "vae": network("diffusers", "AutoencoderKL"),
        },
    ),
    describe=described(
        only(
            "unet",
            ("addition_embed_type", *_MORE_CONDITIONS),
            None,
            "null (this engine gives a UNet only a prompt)",
        ),
        *_unet_of_clip("text_encoder"),
        given(default_steps=30, default_guidance_scale=7.5),
        *_FEW_STEPS,
    ),
    load=_class("stable_diffusion", "StableDiffusion"),
    single_files=(
        SingleFile(
            name="Stable Diffusion 1",
            encoders={
                "cond_stage_model.transformer.": "cond_stage_model.transformer.text_model."
                "embeddings.position_embedding.weight"
            },
            pipeline="StableDiffusionPipeline",
            configs="stable-diffusion-v1-5",
        ),
        SingleFile(
            name="Stable Diffusion 2",
            encoders={"cond_stage_model.model.": "cond_stage_model.model.positional_embedding"},
            pipeline="StableDiffusionPipeline",
            configs="stable-diffusion-2-1-base",
            v_configs="stable-diffusion-2-1",
        ),
    ),
)

STABLE_DIFFUSION_XL: Final = Family(
    name="Stable Diffusion XL",
    layout=Layout(
        pipelines=frozenset({"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"}),
        parts={
            "tokenizer": tokenizer("CLIPTokenizer", "CLIPTokenizerFast"),
            "tokenizer_2": tokenizer("CLIPTokenizer", "CLIPTokenizerFast"),
            "text_encoder": network("transformers", "CLIPTextModel"),
            "text_encoder_2": network("transformers", "CLIPTextModelWithProjection"),
            "unet": network("diffusers", "UNet2DConditionModel"),
            "vae": network("diffusers", "AutoencoderKL"),
        },
        refused={
            "requires_aesthetics_score": "a refiner, which only finishes another model's pictures"
        },
    ),
    describe=described(
        only(
            "unet",
            _MORE_CONDITIONS,
            None,
            "null (this engine gives the UNet a prompt and a size)",
        ),
        only(
            "unet",
            "addition_embed_type",
            "text_time",
            "text_time, as Stable Diffusion XL has it",
            absent=None,
        ),
        fits(
            "unet",
            "projection_class_embeddings_input_dim",
            [
                # Height and width of an original picture, where it was cropped, and height and
                # width wanted.
                size("unet", "addition_time_embed_dim", times=6),
                size("text_encoder_2", "projection_dim", 512),
            ],
            "{} (text and sizes)",
        ),
        *_unet_of_clip("text_encoder", "text_encoder_2"),
        own_scheduler,
        given(default_steps=30, default_guidance_scale=5.0),
        *_FEW_STEPS,
    ),
    load=_class("stable_diffusion_xl", "StableDiffusionXL"),
    single_files=(
        SingleFile(
            name="Stable Diffusion XL",
            encoders={
                "conditioner.embedders.0.transformer.": "conditioner.embedders.0.transformer."
                "text_model.embeddings.position_embedding.weight",
                "conditioner.embedders.1.model.": "conditioner.embedders.1.model."
                "positional_embedding",
            },
            pipeline="StableDiffusionXLPipeline",
            configs="stable-diffusion-xl-base-1.0",
        ),
    ),
)

FLUX2_KLEIN: Final = Family(
    name="FLUX.2 klein",
    layout=Layout(
        pipelines=frozenset({"Flux2KleinPipeline"}),
        parts={
            "tokenizer": tokenizer("Qwen2Tokenizer", "Qwen2TokenizerFast"),
            "text_encoder": network("transformers", "Qwen3ForCausalLM", "Qwen3Model"),
            "transformer": network("diffusers", "Flux2Transformer2DModel"),
            "vae": network("diffusers", "AutoencoderKLFlux2"),
        },
    ),
    describe=described(
        *_QWEN3,
        size_multiple(patch=2),
        only("vae", "patch_size", [2, 2], "[2, 2]"),
        *(
            fits(
                "transformer",
                key,
                [size("vae", "latent_channels", 32, times=4)],
                "the {} channels of a patch of latents",
                may_be_null=True,
            )
            for key in ("in_channels", "out_channels")
        ),
        only("transformer", "patch_size", 1, "1"),
        only(
            "transformer",
            "guidance_embeds",
            False,
            "false, as FLUX.2 klein has it",
            absent=True,
        ),
        # The states after three of the encoder's layers, of which 27 is the last.
        fits(
            "transformer",
            "joint_attention_dim",
            [size("text_encoder", "hidden_size", 4096, times=3)],
            "{}, as the text encoder has it",
            absent=15360,
        ),
        at_least("text_encoder", "num_hidden_layers", 27, absent=32),
        native_size("vae", absent=1024),
        texts(_QWEN_TOKENS),
        flow,
        given(default_steps=50, default_guidance_scale=4.0, most_references=REFERENCES_MAX),
        where(index_says("is_distilled"), given(default_steps=4, is_guided=False), _UNGUIDED),
    ),
    load=_class("flux2_klein", "Flux2Klein"),
    # Its networks were trained in it, and float16 is too small for some of their numbers.
    half="bfloat16",
)

Z_IMAGE: Final = Family(
    name="Z-Image",
    layout=Layout(
        pipelines=frozenset({"ZImagePipeline", "ZImageImg2ImgPipeline"}),
        parts={
            "tokenizer": tokenizer("Qwen2Tokenizer", "Qwen2TokenizerFast"),
            "text_encoder": network("transformers", "Qwen3Model", "Qwen3ForCausalLM"),
            "transformer": network("diffusers", "ZImageTransformer2DModel"),
            "vae": network("diffusers", "AutoencoderKL"),
        },
    ),
    describe=described(
        channels("transformer", 16),
        size_multiple(patch=2),
        *_QWEN3,
        number("transformer", "norm_eps", 1e-5, 0.0, 1.0),
        number("transformer", "rope_theta", 256.0, 1.0, 1e6),
        number("transformer", "t_scale", 1000.0, 1.0, 1e6),
        only("transformer", "all_patch_size", [2], "[2] (the patches of Z-Image)"),
        only("transformer", "all_f_patch_size", [1], "[1] (the patches of Z-Image)"),
        only(
            "transformer",
            "siglip_feat_dim",
            None,
            "null (this engine gives Z-Image only a prompt)",
        ),
        fits(
            "transformer",
            "cap_feat_dim",
            [size("text_encoder", "hidden_size", 4096)],
            "the text encoder's {}",
            absent=2560,
        ),
        # The tokens of a text are counted from 1, and the picture has the number after them.
        positions("transformer", "axes_lens", tokens=_QWEN_TOKENS + 2, patch=2),
        native_size("vae", patch=2, absent=1024),
        texts(_QWEN_TOKENS),
        flow,
        # The networks of both are the same, and the shift tells them apart: the release has 6, and
        # Turbo 3. The numbers of steps and the scales are those of the model cards.
        given(default_steps=30, default_guidance_scale=5.0),
        where(has_shift(3.0), given(default_steps=8), _UNGUIDED),
    ),
    load=_class("z_image", "ZImage"),
    # In float16 its transformer overflows.
    half="bfloat16",
)

STABLE_DIFFUSION_3: Final = Family(
    name="Stable Diffusion 3",
    layout=Layout(
        pipelines=frozenset({"StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"}),
        parts={
            "tokenizer": tokenizer("CLIPTokenizer", "CLIPTokenizerFast"),
            "tokenizer_2": tokenizer("CLIPTokenizer", "CLIPTokenizerFast"),
            "tokenizer_3": tokenizer("T5Tokenizer", "T5TokenizerFast", is_optional=True),
            "text_encoder": network("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_2": network("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_3": network("transformers", "T5EncoderModel", is_optional=True),
            "transformer": network("diffusers", "SD3Transformer2DModel"),
            "vae": network("diffusers", "AutoencoderKL"),
        },
        pairs=(("text_encoder_3", "tokenizer_3"),),
    ),
    describe=described(
        channels("transformer", 16),
        size_multiple(patch=2),
        only("transformer", "patch_size", 2, "2"),
        fits(
            "transformer",
            "pooled_projection_dim",
            [
                size("text_encoder", "projection_dim", 512),
                size("text_encoder_2", "projection_dim", 512),
            ],
            "the text encoders' {}",
            absent=2048,
        ),
        at_least("transformer", "pos_embed_max_size", SIZE_MAX // 16, absent=96),
        native_size("transformer", in_latents=True, patch=2, absent=128),
        clip_texts({"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}),
        where(
            has("text_encoder_3"),
            fits(
                "transformer",
                "joint_attention_dim",
                [size("text_encoder_3", "d_model", 512)],
                "the {} of text_encoder_3",
                absent=4096,
            ),
            # What diffusers' pipelines give T5 to read.
            texts(256),
        ),
        flow,
        # The configs of the models with few steps are those of the others.
        given(default_steps=28, default_guidance_scale=7.0),
        # Version 3.5 in its large size, and in its medium size.
        where(sets("transformer", "qk_norm"), given(default_guidance_scale=3.5)),
        where(
            sets("transformer", "dual_attention_layers"),
            given(default_steps=40, default_guidance_scale=4.5),
        ),
    ),
    load=_class("stable_diffusion_3", "StableDiffusion3"),
    # T5 overflows in float16.
    half="bfloat16",
)

FAMILIES: Final[tuple[Family, ...]] = (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    FLUX2_KLEIN,
    Z_IMAGE,
    STABLE_DIFFUSION_3,
)


def family_of(pipeline: str) -> Family:
    """Return the family whose models say `pipeline` in `_class_name` of model_index.json.

    Raises:
        LookupError: there is no such family.
    """
    family = family_for(pipeline, FAMILIES)
    if family is None:
        raise LookupError(f"no family of models is made for {pipeline}")
    return family
