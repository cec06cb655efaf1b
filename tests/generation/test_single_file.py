from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from generation.conversion import convert
from generation.errors import ModelError
from generation.locate import locate, profile
from generation.single_file import CONFIGS
from generation.weights import load

from .hub import Client, Hub
from .single_file import write_single_file
from .tiny import tiny_pipeline


@pytest.fixture(scope="module")
def tiny() -> StableDiffusionPipeline:
    return tiny_pipeline()


@pytest.fixture
def configs(tiny: StableDiffusionPipeline, tmp_path: Path) -> Path:
    tiny.save_pretrained(tmp_path / "configs")
    return tmp_path / "configs"


@pytest.fixture
def file(tiny: StableDiffusionPipeline, tmp_path: Path) -> Path:
    write_single_file(tiny, tmp_path / "rabbit.v2.safetensors")
    return tmp_path / "rabbit.v2.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub.running() as running:
        yield running


def same_weights(tiny: StableDiffusionPipeline, folder: Path) -> bool:
    parts = load(profile(folder, "rabbit"), device="cpu")
    for part in ("text_encoder", "unet", "vae"):
        saved, loaded = getattr(tiny, part).state_dict(), getattr(parts, part).state_dict()
        if saved.keys() != loaded.keys():
            return False
        if not all(torch.equal(saved[key], loaded[key]) for key in saved):
            return False
    return True


def test_a_single_file_is_converted_once_and_then_needs_neither_torch_nor_the_hub(
    tiny: StableDiffusionPipeline, file: Path, configs: Path, hub: Hub, tmp_path: Path
) -> None:
    client = Client(hub, tmp_path / "home")
    assert "check the connection" in client.locate(str(file), HF_HUB_OFFLINE="1").error
    hub.add_folder(CONFIGS, configs)
    # Once the configs are here no hub is needed any more.
    client.run(f"from generation.hub import download_configs; download_configs({CONFIGS!r})")
    assert not any(name.endswith(".safetensors") for name in hub.downloads())
    hub.status = 503
    # What a killed conversion leaves is removed by the next.
    with client.locating(str(file), "assets/imagine-bot/single-files/*/unfinished-*") as left:
        pass
    assert left.exists()
    first = client.locate(str(file))
    assert first.name == "rabbit.v2"
    assert first.folder is not None
    assert same_weights(tiny, first.folder)
    again = client.locate(str(file), HF_HUB_OFFLINE="1")
    assert (again.folder, again.sha256, again.loaded) == (first.folder, first.sha256, [])
    assert [path.name for path in first.folder.parent.iterdir()] == [first.folder.name]


def test_half_precision_stays_half_precision(
    tiny: StableDiffusionPipeline, file: Path, configs: Path, tmp_path: Path
) -> None:
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    convert(file, configs, tmp_path / "out", dtype="float16")
    unet = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in unet.values()} == {torch.float16}


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.middle_block.0.in_layers.2.bias",
        "first_stage_model.encoder.norm_out.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused(
    file: Path, configs: Path, tmp_path: Path, name: str
) -> None:
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(ModelError, match="lacks tensors"):
        convert(file, configs, tmp_path / "out", dtype="float32")


def test_a_file_of_other_shapes_is_refused(file: Path, configs: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(7)
    save_file(tensors, file)
    with pytest.raises(ModelError, match="no Stable Diffusion 1 checkpoint that can be read"):
        convert(file, configs, tmp_path / "out", dtype="float32")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("model.diffusion_model.", "no Stable Diffusion UNet"),
        ("first_stage_model.", "no Stable Diffusion VAE"),
        ("cond_stage_model.", "no Stable Diffusion text encoder"),
    ],
)
def test_a_file_without_one_of_the_parts_is_refused(file: Path, gone: str, said: str) -> None:
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if not key.startswith(gone)}, file)
    with pytest.raises(ModelError, match=said):
        locate(str(file))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("conditioner.embedders.0.model.x", (1,), "no checkpoint of Stable Diffusion 1"),
        ("cond_stage_model.model.transformer.x", (1,), "no checkpoint of Stable Diffusion 1"),
        ("model.diffusion_model.input_blocks.0.0.weight", (8, 9, 3, 3), "inpainting"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    file: Path, name: str, shape: tuple[int, ...], said: str
) -> None:
    save_file(load_file(file) | {name: torch.zeros(shape)}, file)
    with pytest.raises(ModelError, match=said):
        locate(str(file))


@pytest.mark.parametrize("data", [b"", b"<html>Not found</html>"])
def test_a_broken_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="download it again"):
        locate(str(tmp_path / "x.safetensors"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no file .*gone\.safetensors"):
        locate(str(tmp_path / "gone.safetensors"))
