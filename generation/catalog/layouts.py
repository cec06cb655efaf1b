"""Which files and classes make a model: one row for each family of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What `model_index.json` says of the models of one family, and what lies in their folders.

    `pipelines` are the names in `_class_name` by which the family is recognised. `classes` holds
    the classes that each part may have, and `libraries` the library of each part. `stems` holds
    the file name of each part's weights, without variant and suffix.
    """

    family: str
    pipelines: frozenset[str]
    classes: Mapping[str, frozenset[str]]
    libraries: Mapping[str, str]
    stems: Mapping[str, str]


STABLE_DIFFUSION: Final = Layout(
    family="stable-diffusion",
    pipelines=frozenset({"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"}),
    classes={
        "tokenizer": frozenset({"CLIPTokenizer", "CLIPTokenizerFast"}),
        "text_encoder": frozenset({"CLIPTextModel"}),
        "unet": frozenset({"UNet2DConditionModel"}),
        "vae": frozenset({"AutoencoderKL"}),
    },
    libraries={
        "tokenizer": "transformers",
        "text_encoder": "transformers",
        "unet": "diffusers",
        "vae": "diffusers",
        "scheduler": "diffusers",
    },
    # The file names that transformers and diffusers save under.
    stems={
        "text_encoder": "model",
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
    },
)
