"""LoRAs for each further family, beside the pipeline of diffusers with the same file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generation.catalog.addons.loras import LoraLibrary
from generation.engine.engine import Engine
from generation.errors import LoraError
from generation.values.lora import Lora

from .. import loras
from ..examples import a_request
from ..flux2_klein import Flux2KleinPipelines
from ..loras import Layer, Tensors
from ..pipelines import pixels
from ..sd3 import reference_sd3
from ..sdxl import reference_sdxl
from ..z_image import reference_z_image

RANK = loras.RANK
# The blocks of the small SDXL as Stability AI's own UNet counts them.
STABILITY = {
    "down_blocks_1_attentions_0": "input_blocks_3_1",
    "mid_block_attentions_0": "middle_block_1",
    "up_blocks_0_attentions_0": "output_blocks_0_1",
    "up_blocks_0_attentions_1": "output_blocks_1_1",
}


def stability(found: list[Layer]) -> Tensors:
    """Return what kohya's scripts write for SDXL."""
    tensors = {}
    for name, tensor in loras.kohya(found).items():
        new = name.replace("lora_te_", "lora_te1_")
        for ours, theirs in STABILITY.items():
            new = new.replace(ours, theirs)
        tensors[new] = tensor
    return tensors


def comfy(found: list[Layer]) -> Tensors:
    """Return what ComfyUI and others write for transformers."""
    return {
        name.replace("transformer.", "diffusion_model.", 1): tensor
        for name, tensor in loras.peft(found).items()
    }


def random_pair(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(rows)
    down = 0.8 * torch.randn(RANK, columns, generator=draws)
    return down, 0.8 * torch.randn(rows, RANK, generator=draws)


def fused_z_image(found: list[Layer]) -> Tensors:
    """Return a LoRA for queries, keys and values at once, as Z-Image's own code has them."""
    width = next(layer.shape[1] for layer in found if layer.name.endswith("attention.to_q"))
    down, up = random_pair(3 * width, width)
    name = "lora_unet_layers_0_attention_qkv"
    return {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(loras.ALPHA),
    }


def fused_klein(found: list[Layer]) -> Tensors:
    """Return the same with the names of Black Forest Labs."""
    width = next(layer.shape[1] for layer in found if layer.name.endswith("attn.to_q"))
    down, up = random_pair(3 * width, width)
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def fused_kohya_klein(found: list[Layer]) -> Tensors:
    """Return the same as kohya's scripts write it."""
    width = next(layer.shape[1] for layer in found if layer.name.endswith("attn.to_q"))
    down, up = random_pair(3 * width, width)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    return {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(loras.ALPHA),
    }


CASES: dict[str, tuple[str, Callable[[list[Layer]], Tensors]]] = {
    "SDXL, kohya": ("sdxl", stability),
    "SDXL, diffusers": ("sdxl", loras.peft),
    "Z-Image, diffusers": ("z_image", loras.peft),
    "Z-Image, kohya": ("z_image", loras.kohya),
    "Z-Image, ComfyUI": ("z_image", comfy),
    "Z-Image, fused": ("z_image", fused_z_image),
    "Stable Diffusion 3, diffusers": ("sd3", loras.peft),
    "klein, diffusers": ("klein", loras.peft),
    "klein, Black Forest Labs": ("klein", fused_klein),
    "klein, kohya": ("klein", fused_kohya_klein),
}
REFERENCES: dict[str, Callable[[Path], Any]] = {
    "sdxl": lambda folder: reference_sdxl(folder, stock=True),
    "z_image": lambda folder: reference_z_image(folder, stock=True),
    "sd3": lambda folder: reference_sd3(folder, stock=True),
    "klein": lambda folder: Flux2KleinPipelines.load(folder, stock=True),
}
REQUESTS: dict[str, dict[str, Any]] = {
    "sdxl": {"guidance_scale": 5.0},
    "z_image": {"scheduler": "euler", "guidance_scale": 4.0},
    "sd3": {"scheduler": "euler", "guidance_scale": 4.0},
    "klein": {"scheduler": "euler", "guidance_scale": 1.0},
}


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    """The pipelines that were loaded already."""
    return {}


def layers_of(model: Any) -> list[Layer]:
    return loras.layers(dict(model.adaptable), only="att", seed=4)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_pipelines_picture(
    case: str, request: pytest.FixtureRequest, references: dict[str, Any], tmp_path: Path
) -> None:
    family, layout = CASES[case]
    model = request.getfixturevalue(family)
    if family not in references:
        references[family] = REFERENCES[family](request.getfixturevalue(f"{family}_folder"))
    pipeline = references[family]
    found = [layer for layer in layers_of(model) if len(layer.shape) > 1]
    file = loras.save(layout(found), tmp_path / "one.safetensors")
    wanted = a_request(prompt="a cat", steps=3, loras=(Lora("one", 0.7),), **REQUESTS[family])
    engine = Engine(model, library=LoraLibrary(tmp_path), shared=False)
    made = pixels(engine.generate(wanted)[0]).astype(int)
    plain = pixels(engine.generate(replace(wanted, loras=()))[0]).astype(int)
    pipeline.text.load_lora_weights(file, adapter_name="one")
    pipeline.text.set_adapters(["one"], [0.7])
    try:
        expected = pipeline.picture(wanted).astype(int)
    finally:
        pipeline.text.unload_lora_weights()
    away = np.abs(made - expected)
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size
    assert np.abs(made - plain).max() > 3


@pytest.mark.parametrize(
    ("trained", "used"),
    [
        ("sdxl", "sd15"),
        ("sd15", "sdxl"),
        ("klein", "z_image"),
        ("z_image", "klein"),
        ("sdxl", "sd3"),
        ("klein", "sd3"),
    ],
)
def test_a_lora_of_another_family_is_refused(
    trained: str, used: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tensors = loras.kohya(layers_of(request.getfixturevalue(trained)))
    loras.save(tensors, tmp_path / "one.safetensors")
    model = request.getfixturevalue(used)
    engine = Engine(model, library=LoraLibrary(tmp_path), shared=False)
    with pytest.raises(LoraError, match=r"another kind of model|does not fit"):
        engine.generate(a_request(loras=(Lora("one"),), **REQUESTS.get(used, {})))


@pytest.mark.parametrize("family", ["sdxl", "z_image", "klein"])
def test_bits_do_not_depend_on_seven_others_with_other_loras(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(family)
    for number in range(2):
        tensors = loras.peft(loras.layers(dict(model.adaptable), only="to_q", seed=number))
        loras.save(tensors, tmp_path / f"{number}.safetensors")
    engine = Engine(model, library=LoraLibrary(tmp_path))
    plain = a_request(prompt="a cat", steps=2, **REQUESTS[family])
    requests = [
        plain,
        *(replace(plain, loras=(Lora("0", weight),)) for weight in (0.4, 0.4, 0.9)),
        *(replace(plain, loras=(Lora("0", 0.4), Lora("1", weight))) for weight in (1, -1, 0.5, 2)),
    ]
    alone = [engine.generate(each)[0].pixels for each in requests]
    begun = engine.begin(requests)
    images = [image for images in begun for image in images]  # type: ignore[union-attr]
    while not all(image.done for image in images):
        engine.step(images)
    beside = [made.pixels for made in engine.finish(images) if made is not None]
    assert beside == alone
    assert len({picture.sha256 for picture in alone}) == len(requests) - 1
