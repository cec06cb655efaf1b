"""Another autoencoder in place of a model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from generation.engine.engine import Engine
from generation.errors import ModelError
from generation.models.loading import load
from generation.models.locate import locate
from generation.models.stable_diffusion import StableDiffusion

from ..examples import a_request
from ..pipelines import Pipelines, pixels
from ..single_file import vae_name

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def other(sd15: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another autoencoder of the same shape."""
    folder = tmp_path_factory.mktemp("vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        AutoencoderKL.from_config(sd15.vae.config).save_pretrained(folder)
    return folder


def picture(folder: Path, vae: Path) -> tuple[np.ndarray, str]:
    model = load(locate(str(folder), vae=str(vae)), device="cpu", dtype="float32")
    made = Engine(model, shared=False).generate(a_request(steps=2, guidance_scale=7.5))[0]
    return pixels(made), made.recipe.model_sha256


def test_the_picture_is_the_pipelines_with_that_autoencoder_and_the_hash_covers_it(
    sd15: StableDiffusion, sd15_folder: Path, other: Path, tmp_path: Path
) -> None:
    pipelines = Pipelines.load(sd15_folder, stock=True)
    pipelines.text.vae = AutoencoderKL.from_pretrained(other)
    expected = pipelines.picture(a_request(steps=2, guidance_scale=7.5))
    first, digest = picture(sd15_folder, other)
    away = np.abs(first.astype(int) - expected.astype(int))
    assert away.max() <= 1
    assert np.count_nonzero(away) <= 0.001 * away.size
    assert digest != sd15.weights_sha256

    # In the layout of Stability AI, in one file, as most people have them.
    tensors = load_file(other / FILE)
    ups = len(sd15.vae.config.up_block_types)
    old = {vae_name(name, ups): tensor for name, tensor in tensors.items()}
    old["loss.logvar"] = torch.zeros(())
    save_file(old, tmp_path / "old.safetensors")
    second, other_digest = picture(sd15_folder, tmp_path / "old.safetensors")
    np.testing.assert_array_equal(second, first)
    assert other_digest not in (digest, sd15.weights_sha256)


def test_a_model_without_another_one_keeps_its_hash(
    sd15: StableDiffusion, sd15_folder: Path
) -> None:
    again = load(locate(str(sd15_folder)), device="cpu", dtype="float32")
    assert again.weights_sha256 == sd15.weights_sha256


def test_what_does_not_fit_is_refused_in_one_sentence(
    sd15_folder: Path, other: Path, tmp_path: Path
) -> None:
    scaled = tmp_path / "scaled"
    shutil.copytree(other, scaled)
    config = json.loads((scaled / "config.json").read_text()) | {"scaling_factor": 0.13025}
    (scaled / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"another kind of model .scaling_factor is 0.13025"):
        locate(str(sd15_folder), vae=str(scaled))

    tensors = load_file(other / FILE)
    tensors.pop("decoder.conv_in.weight")
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 tensors, such as decoder.conv_in.weight"):
        picture(sd15_folder, tmp_path / "cut.safetensors")

    tensors["decoder.conv_in.weight"] = torch.ones(3)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelError, match="has another shape"):
        picture(sd15_folder, tmp_path / "wrong.safetensors")

    for name, said in (("none.safetensors", "There is no VAE"), ("old.ckpt", "is a pickle")):
        with pytest.raises(ModelError, match=said):
            locate(str(sd15_folder), vae=str(tmp_path / name))
