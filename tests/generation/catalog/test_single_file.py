from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from generation.catalog import single_file
from generation.catalog.checkpoint import read_checkpoint
from generation.catalog.conversion import convert
from generation.catalog.files import list_folder, read_config, select_configs
from generation.catalog.single_file import whole_configs
from generation.errors import ModelError
from generation.models.families import STABLE_DIFFUSION
from generation.models.loading import load
from generation.models.locate import locate, profile_of
from generation.models.networks.building import expected_shapes
from generation.models.stable_diffusion import NETWORKS
from generation.models.text.tokenizing import load_tokenizer

from ..hub import Client, Hub
from ..single_file import write_single_file
from ..tiny import tiny_pipeline

KINDS = STABLE_DIFFUSION.single_files


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


def with_configs(configs: Path) -> str:
    """Code that has a small model's configs stand for those of Stable Diffusion 1."""
    return (
        "import pathlib, generation.catalog.single_file as s;"
        f"s.bundled_configs = lambda name: pathlib.Path({str(configs)!r})\n"
    )


@pytest.fixture
def shelf(configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files are converted to in this process, with a small model's configs."""
    (tmp_path / "shelf").mkdir()
    monkeypatch.setattr(single_file, "bundled_configs", lambda name: configs)
    monkeypatch.setattr(single_file, "cached_assets_path", lambda *_, **__: tmp_path / "shelf")
    return tmp_path / "shelf"


def same_weights(tiny: StableDiffusionPipeline, folder: Path) -> bool:
    parts = load(profile_of(folder, "rabbit"), device="cpu")
    for part in ("text_encoder", "unet", "vae"):
        saved, loaded = getattr(tiny, part).state_dict(), getattr(parts, part).state_dict()
        if saved.keys() != loaded.keys():
            return False
        if not all(torch.equal(saved[key], loaded[key]) for key in saved):
            return False
    return True


def test_a_single_file_is_converted_once_without_a_hub_and_then_needs_no_torch(
    tiny: StableDiffusionPipeline, file: Path, configs: Path, hub: Hub, tmp_path: Path
) -> None:
    client = Client(hub, tmp_path / "home", before=with_configs(configs))
    # What a killed conversion leaves is removed by the next.
    with client.locating(str(file), "assets/imagine-bot/single-files/*/unfinished-*") as left:
        pass
    assert left.exists()
    first = client.locate(str(file), HF_HUB_OFFLINE="1")
    assert first.name == "rabbit.v2"
    assert first.folder is not None
    assert same_weights(tiny, first.folder)
    again = client.locate(str(file), HF_HUB_OFFLINE="1")
    assert (again.folder, again.sha256, again.loaded) == (first.folder, first.sha256, [])
    assert [path.name for path in first.folder.parent.iterdir()] == [first.folder.name]
    assert not hub.requests


def test_half_precision_stays_half_precision(
    tiny: StableDiffusionPipeline, file: Path, configs: Path, tmp_path: Path
) -> None:
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    convert(read_checkpoint(file, KINDS), configs, tmp_path / "out")
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
        convert(read_checkpoint(file, KINDS), configs, tmp_path / "out")


def test_a_file_of_other_shapes_is_refused(file: Path, configs: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(7)
    save_file(tensors, file)
    with pytest.raises(ModelError, match="no Stable Diffusion 1 checkpoint that can be read"):
        convert(read_checkpoint(file, KINDS), configs, tmp_path / "out")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("model.diffusion_model.", "no Stable Diffusion 1 UNet"),
        ("first_stage_model.", "no Stable Diffusion 1 VAE"),
        ("cond_stage_model.", "no text encoder of Stable Diffusion 1, "),
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


def written(file: Path, changed: dict[str, torch.Tensor], **options: Any) -> str:
    save_file(load_file(file) | changed, file, **options)
    return str(file)


@pytest.mark.parametrize("said", ["v", "v_prediction", "v-prediction"])
@pytest.mark.parametrize("key", ["modelspec.prediction_type", "modelspec.predict_key"])
def test_a_header_that_says_v_is_heard(file: Path, shelf: Path, key: str, said: str) -> None:
    assert locate(written(file, {}, metadata={key: said})).prediction_type == "v_prediction"


def test_a_header_that_says_epsilon_changes_nothing_and_one_of_something_else_is_refused(
    file: Path, shelf: Path
) -> None:
    key = "modelspec.prediction_type"
    assert locate(written(file, {}, metadata={key: "epsilon"})).prediction_type == "epsilon"
    with pytest.raises(ModelError, match=r"says modelspec\.prediction_type = 'sample'"):
        locate(written(file, {}, metadata={key: "sample"}))


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("\ufeffparameterization: v", "v_prediction"),
        ("model: {params: {'parameterization': 'v', other: 1}}", "v_prediction"),
        ("model:\n  params:\n    parameterization: eps\n", "epsilon"),
        ('    # parameterization: "v"\n', "epsilon"),
        ("a: &a [" + "*a," * 9_000 + "]", "epsilon"),
    ],
)
def test_a_yaml_beside_the_file_is_heard(
    file: Path, shelf: Path, suffix: str, text: str, prediction: str
) -> None:
    file.with_suffix(suffix).write_text(text)
    assert locate(str(file)).prediction_type == prediction


def test_tensors_without_a_value_mark_v_and_zero_terminal_snr(file: Path, shelf: Path) -> None:
    none = torch.tensor([])
    before = locate(str(file))
    marked = locate(written(file, {"v_pred": none, "ztsnr": none.clone()}))
    assert (before.prediction_type, marked.prediction_type) == ("epsilon", "v_prediction")
    assert marked.scheduler_config["rescale_betas_zero_snr"] is True
    assert marked.scheduler_config["timestep_spacing"] == "trailing"
    assert load(marked, device="cpu").scheduler_config["prediction_type"] == "v_prediction"
    tensors = load_file(file)
    del tensors["v_pred"]
    save_file(tensors, file)
    with pytest.raises(ModelError, match='set prediction_type = "v_prediction"'):
        locate(str(file))
    found = locate(str(file), prediction_type="v_prediction")
    assert found.scheduler_config["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("end", "shape"), [(".scale_weight", (1,)), (".weight_scale", ()), (".scale_weight", (-1, 1))]
)
def test_the_scale_of_an_fp8_weight_is_multiplied_in(
    file: Path, shelf: Path, end: str, shape: tuple[int, ...]
) -> None:
    plain = load(locate(str(file)), device="cpu").unet.state_dict()
    changed: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(file).items():
        if name.startswith("model.diffusion_model.") and tensor.ndim == 2:
            scale = (tensor.abs().max() / 400).reshape(1)
            scale = (
                scale.expand(len(tensor)).reshape(shape) if -1 in shape else scale.reshape(shape)
            )
            changed[name] = (tensor / scale).to(torch.float8_e4m3fn)
            changed[name.removesuffix(".weight") + end] = scale.contiguous()
            changed[name.removesuffix(".weight") + ".scale_input"] = torch.ones(1)
    scaled = written(file, changed | {"scaled_fp8": torch.zeros(1).to(torch.float8_e4m3fn)})
    for name, tensor in load(locate(scaled), device="cpu").unet.state_dict().items():
        assert torch.allclose(tensor, plain[name], rtol=0.07, atol=1e-3), name


def test_a_scale_of_another_shape_is_refused(file: Path, shelf: Path) -> None:
    name = "model.diffusion_model.time_embed.0.scale_weight"
    with pytest.raises(ModelError, match="which is not supported"):
        locate(written(file, {name: torch.ones(2, 2)}))


def test_older_names_of_the_text_encoder_and_of_attention_are_read(
    tiny: StableDiffusionPipeline, file: Path, shelf: Path
) -> None:
    older = {"q.": "query.", "k.": "key.", "v.": "value.", "proj_out.": "proj_attn."}
    renamed = {}
    for name, tensor in load_file(file).items():
        for new, old in older.items():
            name = name.replace(f".mid.attn_1.{new}", f".mid.attn_1.{old}")  # noqa: PLW2901
        renamed[name.replace("transformer.text_model.", "transformer.")] = tensor
    renamed["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(renamed, file)
    assert same_weights(tiny, locate(str(file)).folder)


def test_a_number_that_is_not_finite_is_named_by_its_tensor(file: Path, shelf: Path) -> None:
    for value in (float("nan"), float("inf")):
        name = "model.diffusion_model.out.2.bias"
        with pytest.raises(ModelError, match=name):
            locate(written(file, {name: torch.full((4,), value)}))
    assert not list(shelf.iterdir())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_whole_numbers_are_no_weights(file: Path, shelf: Path, dtype: torch.dtype) -> None:
    name = "model.diffusion_model.time_embed.0.weight"
    whole = (50 * load_file(file)[name]).to(dtype)
    with pytest.raises(ModelError, match=f"whole numbers in the tensor '{name}'"):
        locate(written(file, {name: whole}))
    assert not list(shelf.iterdir())


def test_sft_is_another_name_of_safetensors(
    tiny: StableDiffusionPipeline, file: Path, shelf: Path
) -> None:
    other = file.rename(file.with_suffix(".SFT"))
    assert same_weights(tiny, locate(str(other)).folder)


@pytest.mark.parametrize("name", ["x.gguf", "some/X.GGUF"])
def test_gguf_is_said_to_be_not_supported(name: str) -> None:
    with pytest.raises(ModelError, match="is a GGUF file, which holds only the denoiser"):
        locate(name)


def test_the_configs_that_come_with_the_package_are_those_of_stable_diffusion_1() -> None:
    with whole_configs(KINDS[0].configs) as folder:
        for part, first, count in (
            ("unet", (320, 4, 3, 3), 859_520_964),
            ("vae", (128, 3, 3, 3), 83_653_863),
            ("text_encoder", (49_408, 768), 123_060_480),
        ):
            shapes = expected_shapes(
                NETWORKS[part], part, read_config(folder, f"{part}/config.json"), folder / part
            )
            assert first in {tuple(shape) for shape in shapes.values()}
            assert sum(shape.numel() for shape in shapes.values()) == count
        names = select_configs(list_folder(folder), STABLE_DIFFUSION.layout, "x")
        tokenizer = load_tokenizer(folder, names, 49_408)
    ids = tokenizer("a photo of a cat").input_ids
    # As in the examples of CLIP's own documentation.
    assert ids == [49_406, 320, 1_125, 539, 320, 2_368, 49_407]
    assert (len(tokenizer), tokenizer.model_max_length, tokenizer.pad_token_id) == (
        49_408,
        77,
        49_407,
    )
