"""What the files of Stable Diffusion XL and its descendants say, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from generation.catalog.files import list_folder, select_files
from generation.engine.engine import Engine
from generation.errors import ModelError
from generation.models.families import STABLE_DIFFUSION_XL
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.stable_diffusion_xl import StableDiffusionXL
from generation.values.request import Told

from ..examples import a_request, gradient

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
TRAILING = {"timestep_spacing": "trailing"}


@pytest.fixture
def folder(sdxl_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(sdxl_folder, tmp_path / "xl")
    return tmp_path / "xl"


def edit(folder: Path, name: str, **values: Any) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        locate(str(folder))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_its_configs_say_what_it_is(sdxl: StableDiffusionXL) -> None:
    found = sdxl.profile
    assert found.family == "Stable Diffusion XL"
    assert (found.native_size, found.size_multiple) == (64, 8)
    assert (found.token_limit, found.prompt_limit) == (77, 77)
    assert (found.default_steps, found.default_guidance_scale) == (30, 5.0)
    assert found.prediction_type == "epsilon"
    assert found.is_guided


@pytest.mark.parametrize(
    ("scheduler", "default", "steps", "guidance_scale"),
    [
        ({"_class_name": "LCMScheduler"}, "lcm", 4, 1.0),
        ({"_class_name": "TCDScheduler"}, "tcd", 4, 1.0),
        (TRAILING, "euler", 4, 1.0),
        ({**TRAILING, "_class_name": "EulerAncestralDiscreteScheduler"}, "euler_a", 4, 1.0),
        ({**TRAILING, "prediction_type": "v_prediction"}, "euler", 30, 5.0),
        ({**TRAILING, "_class_name": "DDIMScheduler"}, "ddim", 30, 5.0),
        ({"_class_name": "PNDMScheduler"}, "ddim", 30, 5.0),
    ],
    ids=str,
)
def test_the_scheduler_of_a_distilled_model_says_how_few_steps_suffice(
    folder: Path, scheduler: dict[str, Any], default: str, steps: int, guidance_scale: float
) -> None:
    edit(folder, SCHEDULER_CONFIG, **scheduler)
    found = locate(str(folder))
    assert found.default_scheduler == default
    assert (found.default_steps, found.default_guidance_scale) == (steps, guidance_scale)
    (folder / "defaults.json").write_text(json.dumps({"steps": 8, "guidance_scale": 2.0}))
    found = locate(str(folder))
    assert (found.default_steps, found.default_guidance_scale) == (8, 2.0)


def test_the_pipeline_for_image_to_image_is_the_same_model(folder: Path) -> None:
    edit(folder, "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline")
    assert locate(str(folder)).family == "Stable Diffusion XL"


def test_a_refiner_is_refused_as_what_it_is(folder: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
        edit(folder, "model_index.json", **{part: [None, None]})
    edit(
        folder,
        "model_index.json",
        _class_name="StableDiffusionXLImg2ImgPipeline",
        requires_aesthetics_score=True,
    )
    sentence = refusal(folder)
    assert "is a refiner, which only finishes another model's pictures;" in sentence
    assert "choose a plain Stable Diffusion XL model" in sentence


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("model_index.json", {"text_encoder": [None, None]}, "has nothing as its text_encoder"),
        ("model_index.json", {"unet": ["diffusers", "FluxTransformer2DModel"]}, "FluxTransformer"),
        ("unet/config.json", {"addition_embed_type": None}, "instead of text_time"),
        ("unet/config.json", {"addition_time_embed_dim": 16}, "instead of 116 (text and sizes)"),
        ("unet/config.json", {"cross_attention_dim": 16}, "the text encoder's 40"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"time_cond_proj_dim": 3}, "time_cond_proj_dim = 3"),
        ("text_encoder_2/config.json", {"projection_dim": 21}, "instead of 69 (text and sizes)"),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 20}, "different lengths"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor = 0"),
        (SCHEDULER_CONFIG, {"rescale_betas_zero_snr": True}, "starts from noise alone"),
        (SCHEDULER_CONFIG, {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
    ],
)
def test_a_model_that_the_engine_cannot_run_is_refused(
    folder: Path, name: str, values: dict[str, Any], said: str
) -> None:
    edit(folder, name, **values)
    assert said in refusal(folder)


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert f"{part}/" in refusal(folder)


def test_a_missing_tensor_of_the_second_encoder_is_named(folder: Path) -> None:
    edit(folder, "text_encoder_2/config.json", num_hidden_layers=4)
    with pytest.raises(ModelError, match=r"text_encoder_2/config\.json asks for"):
        load(locate(str(folder)), device="cpu")


def test_of_an_empty_text_the_network_is_told_zeros(sdxl: StableDiffusionXL) -> None:
    empty, word = sdxl.tokenize(Told("")), sdxl.tokenize(Told("red"))
    assert (empty.ids, len(word.ids)) == ((), 2 * 77)
    with torch.inference_mode():
        [nothing], [told] = sdxl.encode([empty.ids]), sdxl.encode([word.ids])
    assert nothing.shape == told.shape == (("text", (77, 40)), ("pooled", (20,)))
    assert not any(tensor.any() for tensor in nothing.tensors.values())
    assert all(tensor.any() for tensor in told.tensors.values())


def test_of_a_prompt_without_a_known_letter_the_network_is_told_an_empty_text(
    sdxl: StableDiffusionXL,
) -> None:
    # An empty negative prompt is one that was not given; this one was given.
    unknown = sdxl.tokenize(Told(" "))
    assert len(unknown.ids) == 2 * 77
    with torch.inference_mode():
        [told] = sdxl.encode([unknown.ids])
    assert told.tensors["pooled"].any()


@pytest.mark.parametrize(
    ("dtype", "upcasts", "expected"),
    [
        (torch.float16, True, torch.float32),
        (torch.float16, False, torch.float16),
        (torch.bfloat16, True, torch.bfloat16),
    ],
)
def test_an_autoencoder_that_overflows_in_float16_computes_in_float32(
    folder: Path, dtype: torch.dtype, upcasts: bool, expected: torch.dtype
) -> None:
    edit(folder, "vae/config.json", force_upcast=upcasts)
    found = locate(str(folder))
    # A CPU is refused float16, which is slow there; here it stands for a GPU.
    model = StableDiffusionXL.load(
        found,
        select_files(list_folder(folder), STABLE_DIFFUSION_XL.layout, "x"),
        device=torch.device("cpu"),
        dtype=dtype,
        compiled=False,
        weights_sha256="",
    )
    assert (model.vae.dtype, model.unet.dtype, model.latents_dtype) == (expected, dtype, dtype)
    picture = Engine(model, shared=False).generate(a_request(steps=1))[0]
    assert picture.recipe.dtype == str(dtype).removeprefix("torch.")
    source = a_request(source=gradient(), strength=1.0, steps=1)
    assert Engine(model, shared=False).generate(source)[0].pixels != picture.pixels
