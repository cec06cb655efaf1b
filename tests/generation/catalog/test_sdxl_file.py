"""Stable Diffusion XL in one file, with the names of the first release."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from generation.catalog import single_file
from generation.catalog.files import list_folder, read_config, select_configs
from generation.catalog.single_file import whole_configs
from generation.errors import ModelError
from generation.models.families import STABLE_DIFFUSION_XL
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.networks.building import expected_shapes
from generation.models.stable_diffusion_xl import NETWORKS, StableDiffusionXL
from generation.models.text.tokenizing import load_tokenizer

from ..single_file import write_sdxl_file

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
OPEN_CLIP = "conditioner.embedders.1.model."
PROJECTION = f"{OPEN_CLIP}text_projection"


@pytest.fixture(scope="module")
def pipeline(sdxl_folder: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(sdxl_folder, dtype=torch.float32)


@pytest.fixture
def file(pipeline: StableDiffusionXLPipeline, tmp_path: Path) -> Path:
    write_sdxl_file(pipeline, tmp_path / "pony.safetensors")
    return tmp_path / "pony.safetensors"


@pytest.fixture(autouse=True)
def shelf(sdxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files are converted to, with the small model's configs."""
    (tmp_path / "shelf").mkdir()
    monkeypatch.setattr(single_file, "bundled_configs", lambda name: sdxl_folder)
    monkeypatch.setattr(single_file, "cached_assets_path", lambda *_, **__: tmp_path / "shelf")
    return tmp_path / "shelf"


def loaded(file: Path) -> StableDiffusionXL:
    model = load(locate(str(file)), device="cpu")
    assert isinstance(model, StableDiffusionXL)
    return model


def assert_same_weights(pipeline: StableDiffusionXLPipeline, model: StableDiffusionXL) -> None:
    for part in PARTS:
        saved, found = getattr(pipeline, part).state_dict(), getattr(model, part).state_dict()
        assert saved.keys() == found.keys()
        assert all(torch.equal(saved[key], found[key]) for key in saved), part


def test_a_file_is_read_with_the_weights_that_were_written(
    pipeline: StableDiffusionXLPipeline, file: Path
) -> None:
    found = locate(str(file))
    assert (found.name, found.family) == ("pony", "Stable Diffusion XL")
    assert_same_weights(pipeline, loaded(file))


def test_the_projection_may_have_its_later_name(
    pipeline: StableDiffusionXLPipeline, file: Path
) -> None:
    tensors = load_file(file)
    tensors[f"{PROJECTION}.weight"] = tensors.pop(PROJECTION)
    save_file(tensors, file)
    assert_same_weights(pipeline, loaded(file))


def test_tensors_without_a_value_mark_v_and_zero_terminal_snr(file: Path) -> None:
    none = torch.tensor([])
    save_file(load_file(file) | {"v_pred": none, "ztsnr": none.clone()}, file)
    found = locate(str(file))
    assert found.prediction_type == "v_prediction"
    assert found.scheduler_config["rescale_betas_zero_snr"] is True
    assert found.scheduler_config["timestep_spacing"] == "trailing"
    # It is no model of few steps.
    assert found.default_steps == 30
    assert "lms" not in found.schedulers


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("model.diffusion_model.", "no Stable Diffusion XL UNet"),
        ("first_stage_model.", "no Stable Diffusion XL VAE"),
        ("conditioner.", "no text encoder of Stable Diffusion 1, "),
        ("conditioner.embedders.0.", "is no checkpoint of Stable Diffusion 1, "),
    ],
)
def test_a_file_without_one_of_the_parts_is_refused(file: Path, gone: str, said: str) -> None:
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if not key.startswith(gone)}, file)
    with pytest.raises(ModelError, match=said):
        locate(str(file))


def test_a_refiner_in_one_file_is_refused(file: Path) -> None:
    tensors = {
        name.replace("embedders.1.", "embedders.0."): tensor
        for name, tensor in load_file(file).items()
        if not name.startswith("conditioner.embedders.0.")
    }
    save_file(tensors, file)
    with pytest.raises(ModelError, match="name another model by its folder or hub id"):
        locate(str(file))


@pytest.mark.parametrize(
    "name",
    [PROJECTION, "conditioner.embedders.1.model.ln_final.bias", "model.diffusion_model.out.2.bias"],
)
def test_a_file_that_lacks_a_tensor_is_refused(file: Path, shelf: Path, name: str) -> None:
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(ModelError, match="lacks tensors of Stable Diffusion XL"):
        locate(str(file))
    assert not list(shelf.iterdir())


def test_the_configs_that_come_with_the_package_are_those_of_the_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    [kind] = STABLE_DIFFUSION_XL.single_files
    with whole_configs(kind.configs) as folder:
        for part, count in (
            ("unet", 2_567_463_684),
            ("vae", 83_653_863),
            ("text_encoder", 123_060_480),
            ("text_encoder_2", 694_659_840),
        ):
            config = read_config(folder, f"{part}/config.json")
            shapes = expected_shapes(NETWORKS[part], part, config, folder / part)
            assert sum(shape.numel() for shape in shapes.values()) == count
        names = select_configs(list_folder(folder), STABLE_DIFFUSION_XL.layout, "x")
        first, second = (
            load_tokenizer(folder, names, 49_408, part=part)
            for part in ("tokenizer", "tokenizer_2")
        )
    text = {"padding": "max_length", "max_length": 9}
    start = [49_406, 320, 1_125, 539, 320, 2_368, 49_407]
    assert first("a photo of a cat", **text).input_ids == [*start, 49_407, 49_407]
    # The second encoder was trained with texts that end in zeros, which is the token "!".
    assert second("a photo of a cat", **text).input_ids == [*start, 0, 0]
