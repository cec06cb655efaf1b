from __future__ import annotations

import gc
import json
import logging
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from generation.catalog.hashing import weights_sha256
from generation.errors import ModelError
from generation.models.families import STABLE_DIFFUSION
from generation.models.loading import load
from generation.models.locate import locate, profile_of, starter_folder
from generation.models.networks.placement import place

from ..tiny import tiny_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def tiny() -> StableDiffusionPipeline:
    return tiny_pipeline()


@pytest.fixture
def folder(tiny: StableDiffusionPipeline, tmp_path: Path) -> Path:
    tiny.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(profile_of(folder, "tiny"), **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def edit(folder: Path, name: str, values: dict[str, Any]) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


def test_the_starter_loads_ready_to_run() -> None:
    parts = load(locate("starter"), device="cpu")
    assert (parts.device, parts.dtype) == (torch.device("cpu"), torch.float32)
    for network in (parts.text_encoder, parts.unet, parts.vae):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert parts.weights_sha256 == weights_sha256(starter_folder(), STABLE_DIFFUSION.layout)
    assert parts.profile.name == "starter"
    assert parts.scheduler_config["num_train_timesteps"] == 1000
    ids = parts.tokenizer("red apple", padding="max_length", return_tensors="pt").input_ids
    hidden = parts.text_encoder(ids).last_hidden_state
    side = parts.unet.config.sample_size
    latents = torch.zeros(1, parts.unet.config.in_channels, side, side)
    noise = parts.unet(latents, torch.tensor([500]), encoder_hidden_states=hidden).sample
    assert noise.shape == latents.shape
    edge = parts.profile.native_size
    assert parts.vae.decode(latents).sample.shape == (1, 3, edge, edge)


def test_a_saved_pipeline_loads_with_the_weights_that_were_saved(
    tiny: StableDiffusionPipeline, folder: Path
) -> None:
    found = profile_of(folder, "tiny")
    assert (found.native_size, found.size_multiple, found.token_limit) == (16, 8, 32)
    parts = load(found, device="cpu")
    for part in ("text_encoder", "unet", "vae"):
        saved, loaded = getattr(tiny, part).state_dict(), getattr(parts, part).state_dict()
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_half_precision_and_split_weights_load(tiny: StableDiffusionPipeline, folder: Path) -> None:
    for name in (UNET, VAE, TEXT):
        (folder / name).unlink()
    tiny.unet.save_pretrained(folder / "unet", variant="fp16", max_shard_size="50KB")
    tiny.vae.save_pretrained(folder / "vae", variant="fp16")
    tiny.text_encoder.save_pretrained(folder / "text_encoder", max_shard_size="50KB")
    assert len(list((folder / "unet").glob("*.fp16-*-of-*.safetensors"))) > 1
    assert len(list((folder / "text_encoder").glob("*-of-*.safetensors"))) > 1
    parts = load(profile_of(folder, "tiny"), device="cpu")
    for part in ("text_encoder", "unet", "vae"):
        saved, loaded = getattr(tiny, part).state_dict(), getattr(parts, part).state_dict()
        assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_the_dtype_can_be_chosen(folder: Path) -> None:
    parts = load(profile_of(folder, "tiny"), device="cpu", dtype="bfloat16")
    assert parts.dtype == torch.bfloat16
    for network in (parts.text_encoder, parts.unet, parts.vae):
        assert {p.dtype for p in network.parameters()} == {torch.bfloat16}


def test_loading_leaves_the_process_as_it_was(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # A tensor that no config asks for makes the libraries talk.
    save_file(load_file(folder / TEXT) | {"left.over": torch.zeros(1)}, folder / TEXT)
    save_file(load_file(folder / UNET) | {"left.over": torch.zeros(1)}, folder / UNET)

    def state() -> tuple[object, ...]:
        libraries = (diffusers_logging, transformers_logging)
        return (
            *(lib.get_verbosity() for lib in libraries),
            *(lib.is_progress_bar_enabled() for lib in libraries),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            logging.root.level,
            torch.get_rng_state().tolist(),
        )

    before = state()
    load(profile_of(folder, "tiny"), device="cpu", dtype="bfloat16")
    (folder / VAE).write_bytes(b"")
    with pytest.raises(ModelError):
        load(profile_of(folder, "tiny"), device="cpu")
    assert state() == before
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")


@pytest.mark.parametrize(
    "values",
    [
        {"beta_schedule": "sigmoid"},
        {"num_train_timesteps": "many"},
        {"timestep_spacing": "wide"},
        {"beta_start": None},
    ],
)
def test_a_scheduler_that_cannot_be_made_is_found_before_anybody_asks_for_a_picture(
    folder: Path, values: dict[str, Any]
) -> None:
    edit(folder, "scheduler/scheduler_config.json", values)
    sentence = refusal(folder, device="cpu")
    assert sentence.startswith(f"{folder / 'scheduler/scheduler_config.json'} cannot be used (")
    assert sentence.endswith("download the model again, or correct it there.")


def test_a_model_with_pickled_weights_is_refused(
    tiny: StableDiffusionPipeline, folder: Path
) -> None:
    found = profile_of(folder, "tiny")
    (folder / UNET).unlink()
    tiny.unet.save_pretrained(folder / "unet", safe_serialization=False)
    with pytest.raises(ModelError, match="can run code"):
        load(found, device="cpu")


@pytest.mark.parametrize("name", [TEXT, UNET, VAE])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_named(folder: Path, name: str, share: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])
    sentence = refusal(folder, device="cpu")
    assert str(folder / name) in sentence
    assert "download the model again" in sentence


@pytest.mark.parametrize("name", [TEXT, UNET, VAE])
def test_a_file_of_something_else_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"<html>Not found</html>" * 100)
    assert str(folder / name) in refusal(folder, device="cpu")


def test_a_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    assert str(folder / "tokenizer") in refusal(folder, device="cpu")


@pytest.mark.parametrize(
    ("config", "values", "name"),
    [
        ("unet/config.json", {"block_out_channels": [16, 32]}, UNET),
        ("vae/config.json", {"block_out_channels": [16, 32]}, VAE),
        ("text_encoder/config.json", {"vocab_size": 99}, TEXT),
    ],
)
def test_weights_that_do_not_fit_their_config_are_named(
    folder: Path, config: str, values: dict[str, Any], name: str
) -> None:
    edit(folder, config, values)
    state = torch.get_rng_state()
    sentence = refusal(folder, device="cpu")
    assert str(folder / name) in sentence
    assert "of another shape" in sentence or "lacks" in sentence
    assert torch.equal(torch.get_rng_state(), state)


def test_a_config_that_makes_no_network_is_named(folder: Path) -> None:
    edit(folder, "unet/config.json", {"norm_num_groups": 7})
    assert "must be divisible" in refusal(folder, device="cpu")


@pytest.mark.parametrize("name", [TEXT, UNET, VAE])
def test_a_missing_tensor_is_no_random_one(folder: Path, name: str) -> None:
    tensors = load_file(folder / name)
    gone = min(key for key in tensors if key.endswith("bias"))
    del tensors[gone]
    save_file(tensors, folder / name)
    sentence = refusal(folder, device="cpu")
    assert "lacks 1 of the tensors" in sentence
    assert gone in sentence


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "toaster", "", "cpu:x"])
def test_a_device_that_is_not_there_is_named(folder: Path, device: str) -> None:
    assert repr(device) in refusal(folder, device=device)


def test_a_cpu_with_a_number_is_the_cpu(folder: Path) -> None:
    assert load(profile_of(folder, "tiny"), device="cpu:0").device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_is_a_sentence(folder: Path) -> None:
    assert "use cpu" in refusal(folder, device="cuda")


@pytest.mark.parametrize("dtype", ["float16", "float64", "half"])
def test_a_dtype_that_will_not_do_is_named(folder: Path, dtype: str) -> None:
    assert dtype in refusal(folder, device="cpu", dtype=dtype)


def test_files_that_vanish_after_they_were_found_are_named(folder: Path) -> None:
    found = profile_of(folder, "tiny")
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelError, match=r"vae/config\.json"):
        load(found, device="cpu")


def test_a_model_that_does_not_fit_leaves_no_room_taken_to_who_keeps_the_error() -> None:
    class Large(torch.nn.Module):
        def to(self, *_: Any) -> Large:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    networks = {"text_encoder": torch.nn.Linear(2, 2), "unet": Large()}
    moved = weakref.ref(networks["text_encoder"])
    with pytest.raises(ModelError, match="does not fit into the memory of cpu") as caught:
        place(networks, torch.device("cpu"))
    gc.collect()
    assert moved() is None
    assert caught.value.__context__ is None
