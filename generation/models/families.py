"""The families of models that the engine can run: one row for each.

Importing this module loads no torch: `load` of a row imports the family's class.
"""

from __future__ import annotations

from typing import Any, Final

from ..catalog.checkpoint import SingleFile
from ..catalog.layout import Layout, network, tokenizer
from ..catalog.profile import Family, family_for
from . import describing


def _stable_diffusion() -> Any:
    from .stable_diffusion import StableDiffusion  # noqa: PLC0415 - it loads torch

    return StableDiffusion


def _stable_diffusion_xl() -> Any:
    from .stable_diffusion_xl import StableDiffusionXL  # noqa: PLC0415 - it loads torch

    return StableDiffusionXL


def _flux2_klein() -> Any:
    from .flux2_klein import Flux2Klein  # noqa: PLC0415 - it loads torch

    return Flux2Klein


def _z_image() -> Any:
    from .z_image import ZImage  # noqa: PLC0415 - it loads torch

    return ZImage


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
    describe=describing.stable_diffusion,
    load=_stable_diffusion,
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
    describe=describing.stable_diffusion_xl,
    load=_stable_diffusion_xl,
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
    describe=describing.flux2_klein,
    load=_flux2_klein,
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
    describe=describing.z_image,
    load=_z_image,
    # In float16 its transformer overflows.
    half="bfloat16",
)

FAMILIES: Final[tuple[Family, ...]] = (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    FLUX2_KLEIN,
    Z_IMAGE,
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
