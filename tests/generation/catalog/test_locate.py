from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from generation.catalog.hashing import weights_sha256
from generation.errors import ModelError
from generation.models.families import STABLE_DIFFUSION
from generation.models.locate import locate, profile_of

from .folders import WEIGHTS, Edit


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        locate(str(folder))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_the_starter_says_what_it_is() -> None:
    starter = locate("starter")
    assert (starter.name, starter.native_size, starter.size_multiple) == ("starter", 128, 8)
    assert (starter.token_limit, starter.prompt_limit) == (56, 23)
    assert starter.prediction_type == "v_prediction"
    assert (starter.default_steps, starter.default_guidance_scale) == (25, 2.5)
    assert starter.default_strength == 0.9
    assert starter.scheduler_config["beta_schedule"] == "scaled_linear"


def test_a_folder_is_named_by_its_last_part(folder: Path) -> None:
    assert locate(str(folder)).name == "rabbit"
    assert locate(str(folder)).folder == folder


def test_locating_loads_no_networks_and_no_hub_client() -> None:
    code = (
        "import sys; from generation.models.locate import locate;"
        "from generation.catalog.hashing import weights_sha256;"
        "from generation.models.families import STABLE_DIFFUSION;"
        "weights_sha256(locate('starter').folder, STABLE_DIFFUSION.layout);"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'huggingface_hub')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_model_without_defaults_gets_the_usual_ones(folder: Path) -> None:
    (folder / "defaults.json").unlink()
    found = locate(str(folder))
    assert (found.default_steps, found.default_guidance_scale) == (30, 7.5)
    assert found.default_guidance_rescale is None
    assert found.default_strength == 0.6


def test_sizes_follow_the_networks(folder: Path, edit: Edit) -> None:
    edit("vae/config.json", {"block_out_channels": [128, 256, 512, 512, 512]})
    edit("unet/config.json", {"sample_size": [96, 64]})
    found = locate(str(folder))
    assert found.size_multiple == 16
    assert found.native_size == 64 * 16


@pytest.mark.parametrize(
    ("tokenizer", "positions", "limit"), [(77, 32, 32), (20, 77, 20), (int(1e30), 77, 77)]
)
def test_the_shorter_of_two_limits_holds(
    folder: Path, edit: Edit, tokenizer: int, positions: int, limit: int
) -> None:
    more = {"model_max_length": tokenizer, "prompt_tokens": None}
    edit("tokenizer/tokenizer_config.json", more)
    edit("text_encoder/config.json", {"max_position_embeddings": positions})
    found = locate(str(folder))
    assert (found.token_limit, found.prompt_limit) == (limit, limit)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
        *WEIGHTS,
    ],
)
def test_a_missing_file_is_named_with_its_folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    sentence = refusal(folder)
    assert name in sentence
    assert str(folder) in sentence
    assert "download it again" in sentence


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet", "vae", "scheduler"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert f"{part}/" in refusal(folder)


def test_a_tokenizer_may_come_as_vocabulary_and_merges(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").unlink()
    (folder / "tokenizer/vocab.json").write_text("{}")
    assert "merges.txt" in refusal(folder)
    (folder / "tokenizer/merges.txt").write_text("")
    assert locate(str(folder)).token_limit == 56


@pytest.mark.parametrize("pickle", ["diffusion_pytorch_model.bin", "model.CKPT", "weights.pth"])
def test_weights_that_are_only_a_pickle_are_refused(folder: Path, pickle: str) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet" / pickle)
    sentence = refusal(folder)
    assert f"unet/{pickle}" in sentence
    assert "can run code" in sentence
    assert "safetensors" in sentence


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    before = weights_sha256(folder, STABLE_DIFFUSION.layout)
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    assert locate(str(folder)).name == "rabbit"
    assert weights_sha256(folder, STABLE_DIFFUSION.layout) == before


@pytest.mark.parametrize("name", ["v1-5-pruned.ckpt", "some/where/model.pt", "x.bin", "x.pth"])
def test_a_pickle_file_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ModelError, match="can run code"):
        locate(name)


def test_half_precision_files_do_if_there_are_no_others(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert locate(str(folder)).name == "rabbit"


@pytest.mark.parametrize(("variant", "dotted"), [("", ""), (".fp16", ".fp16")])
def test_weights_may_be_split(folder: Path, variant: str, dotted: str) -> None:
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    (unet / f"diffusion_pytorch_model.safetensors.index{dotted}.json").write_text("{}")
    assert "has 0 of the" in refusal(folder)
    for shard in ("00001-of-00002", "00002-of-00002"):
        name = f"diffusion_pytorch_model{variant}-{shard}.safetensors"
        (unet / name).write_bytes(b"x")
    assert locate(str(folder)).name == "rabbit"
    (unet / f"diffusion_pytorch_model{variant}-00001-of-00002.safetensors").unlink()
    assert "has 1 of the 2 files" in refusal(folder)


@pytest.mark.parametrize(
    "pipeline", ["PixArtSigmaPipeline", "StableDiffusionInpaintPipeline", "FluxPipeline"]
)
def test_a_model_for_another_pipeline_is_refused(folder: Path, edit: Edit, pipeline: str) -> None:
    edit("model_index.json", {"_class_name": pipeline})
    sentence = refusal(folder)
    assert pipeline in sentence
    assert "Stable Diffusion 1 or 2" in sentence


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny"),
        ("model_index.json", {"unet": [None, None]}, "has nothing as its unet"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"out_channels": 7}, "out_channels = 7"),
        ("unet/config.json", {"sample_size": None}, "sample_size = None"),
        ("unet/config.json", {"cross_attention_dim": 768}, "the text encoder's 192"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ("vae/config.json", {"block_out_channels": []}, "block_out_channels"),
        ("vae/config.json", {"block_out_channels": "many"}, "block_out_channels"),
        ("text_encoder/config.json", {"max_position_embeddings": -1}, "max_position_embeddings"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "long"}, "model_max_length"),
        ("tokenizer/tokenizer_config.json", {"prompt_tokens": 57}, "whole number from 3 to 56"),
        ("tokenizer/tokenizer_config.json", {"prompt_tokens": 2}, "prompt_tokens = 2"),
        ("tokenizer/tokenizer_config.json", {"prompt_tokens": "few"}, "prompt_tokens = 'few'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "v_prediction"),
        ("defaults.json", {"steps": 0}, "steps = 0"),
        ("defaults.json", {"guidance_scale": 0.5}, "guidance_scale = 0.5"),
        ("defaults.json", {"guidance_rescale": 1.5}, "guidance_rescale = 1.5"),
        ("defaults.json", {"max_size": "large"}, "max_size = 'large'"),
        ("defaults.json", {"max_size": 4}, "a whole number from 32 to 2048"),
        ("defaults.json", {"max_size": 10_000}, "max_size = 10000"),
        ("emoji.json", {"🦉": 3}, "🦉 = 3 instead of the name of an emoji"),
        ("emoji.json", {"a": "b"}, "a = 'b' instead of the name of an emoji"),
        ("defaults.json", {"strength": 0.01}, "strength = 0.01 instead of a number from 0.05 to 1"),
        ("defaults.json", {"strength": "much"}, "strength = 'much'"),
    ],
)
def test_a_model_that_the_engine_cannot_run_is_refused(
    folder: Path, edit: Edit, name: str, values: dict[str, Any], said: str
) -> None:
    edit(name, values)
    assert said in refusal(folder)


def test_how_large_its_pictures_may_be_and_the_names_of_emoji_are_in_files_of_ours(
    folder: Path, edit: Edit
) -> None:
    found = locate(str(folder))
    digest = weights_sha256(folder, STABLE_DIFFUSION.layout)
    assert found.emoji["🦉"] == "owl"
    assert found.default_max_size == found.native_size
    edit("defaults.json", {"max_size": 96})
    edit("emoji.json", {"🦉": "cat"})
    found = locate(str(folder))
    assert (found.default_max_size, found.emoji["🦉"]) == (96, "cat")
    # They are no part of what a recipe makes.
    assert weights_sha256(folder, STABLE_DIFFUSION.layout) == digest
    (folder / "defaults.json").unlink()
    (folder / "emoji.json").unlink()
    found = locate(str(folder))
    assert (found.default_max_size, found.emoji) == (2 * found.native_size, {})


def test_a_unet_that_does_not_say_how_many_channels_it_takes_takes_four(folder: Path) -> None:
    path = folder / "unet/config.json"
    config = json.loads(path.read_text())
    del config["in_channels"]
    path.write_text(json.dumps(config))
    assert "takes 4 channels where the latents have 8" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "defaults.json"])
def test_broken_json_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    assert str(folder / name) in refusal(folder)


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "", "a/b/c", "../x", "a b/c"])
def test_an_unknown_name_says_what_would_do(name: str) -> None:
    with pytest.raises(ModelError, match=r"use 'starter', a folder, "):
        locate(name)


@pytest.mark.parametrize("name", ["x" * 300, "\0", "~nobody-of-this-name/x", f"{'x' * 300}.sft"])
def test_what_can_be_no_path_is_a_sentence(name: str) -> None:
    with pytest.raises(ModelError, match=r"^There is no .*\.$"):
        locate(name)


@pytest.mark.parametrize("name", ["x.onnx", "x", "x.safetensors.download", "owner/name"])
def test_a_file_of_another_kind_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ModelError, match="is a file of a kind that is not supported"):
        locate(name)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    assert "model_index.json" in refusal(tmp_path)
    with pytest.raises(ModelError, match="no folder"):
        profile_of(tmp_path / "gone", "gone")


def test_the_hash_follows_what_pictures_depend_on(folder: Path, edit: Edit) -> None:
    first = weights_sha256(folder, STABLE_DIFFUSION.layout)
    (folder / "README.md").write_text("other words")
    edit("defaults.json", {"steps": 3})
    assert weights_sha256(folder, STABLE_DIFFUSION.layout) == first
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert weights_sha256(copy, STABLE_DIFFUSION.layout) == first
    seen = {first}
    for name in WEIGHTS:
        (folder / name).write_bytes(b"changed")
        seen.add(weights_sha256(folder, STABLE_DIFFUSION.layout))
    edit("scheduler/scheduler_config.json", {"beta_end": 0.02})
    seen.add(weights_sha256(folder, STABLE_DIFFUSION.layout))
    assert len(seen) == 5
