"""The settings for small cards, from the command line: what they make, and its replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from generation.images.png import read_png
from generation.models.locate import starter_folder
from generation.values.recipe import Recipe

from ...generation.denoisers import folder_tensors, write_gguf
from .shell import Shell, sentence

RABBIT = ("generate", "rabbit face", "--seed", "7", "--steps", "2")


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The UNet of the bundled model, quantised."""
    file = tmp_path_factory.mktemp("gguf") / "small.Q8_0.gguf"
    return write_gguf(file, folder_tensors(starter_folder(), "unet"))


def made(shell: Shell, *arguments: str | Path) -> tuple[Path, Recipe]:
    result = shell(*RABBIT, *arguments)
    assert result.exit_code == 0, result.output
    file = Path(result.stdout.strip())
    return file, read_png(file.read_bytes())[1]


def test_a_gguf_with_the_parts_of_its_base(shell: Shell, gguf_file: Path) -> None:
    named = ("--model", gguf_file, "--base", "starter")
    file, recipe = made(shell, *named)
    assert (recipe.model, recipe.quantization) == ("small.Q8_0", "Q8_0")
    assert recipe.base_sha256 is not None
    assert recipe.base_sha256 != recipe.model_sha256
    assert shell("replay", file, *named).exit_code == 0
    said = sentence(shell("replay", file, "--model", "starter"))
    assert said == (
        "This picture was made with weights in Q8_0; name that .gguf file with --model, and the "
        "folder or hub id of the other parts with --base."
    )


@pytest.mark.rare
def test_the_config_names_the_base(shell: Shell, gguf_file: Path) -> None:
    config = shell.folder / "config.toml"
    config.write_text(f'model = "{gguf_file}"\nbase = "starter"\n', encoding="utf-8")
    file, recipe = made(shell)
    assert recipe.quantization == "Q8_0"
    assert shell("replay", file).exit_code == 0
    # The base belongs to that model alone.
    assert made(shell, "--model", "starter")[1].quantization is None


@pytest.mark.rare
def test_one_of_several_models_is_a_gguf(shell: Shell, gguf_file: Path) -> None:
    config = shell.folder / "config.toml"
    config.write_text(
        f'[[models]]\nname = "starter"\n'
        f'[[models]]\nname = "small"\nsource = "{gguf_file}"\nbase = "starter"\n',
        encoding="utf-8",
    )
    assert made(shell)[1].quantization is None
    assert made(shell, "--model", "small")[1].quantization == "Q8_0"


@pytest.mark.rare
def test_large_pictures_are_decoded_in_tiles_and_a_replay_knows(shell: Shell) -> None:
    config = shell.folder / "config.toml"
    config.write_text("vae_tile = 256\n", encoding="utf-8")
    size = ("--width", "320", "--height", "64")
    tiled, recipe = made(shell, *size)
    assert recipe.decoder_tile == 256
    assert made(shell)[1].decoder_tile is None
    config.unlink()
    whole, recipe = made(shell, *size)
    assert recipe.decoder_tile is None
    assert read_png(whole.read_bytes())[0] != read_png(tiled.read_bytes())[0]
    assert shell("replay", tiled).exit_code == 0
    config.write_text("vae_tile = 256\n", encoding="utf-8")
    assert shell("replay", whole).exit_code == 0


@pytest.mark.rare
def test_pictures_decoded_one_by_one_are_the_same(shell: Shell) -> None:
    config = shell.folder / "config.toml"
    config.write_text("vae_slicing = true\n", encoding="utf-8")
    file, _ = made(shell)
    config.unlink()
    assert shell("replay", file).exit_code == 0


@pytest.mark.rare
def test_a_picture_of_8_bits_is_made_again_in_8_bits(shell: Shell) -> None:
    config = shell.folder / "config.toml"
    config.write_text('quantize = "int8"\n', encoding="utf-8")
    file, recipe = made(shell)
    assert recipe.quantization == "int8"
    config.unlink()
    plain, recipe = made(shell)
    assert recipe.quantization is None
    assert read_png(plain.read_bytes())[0] != read_png(file.read_bytes())[0]
    assert shell("replay", file).exit_code == 0
    config.write_text('quantize = "int8"\n', encoding="utf-8")
    assert shell("replay", plain).exit_code == 0


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.rare
def test_offload_changes_no_pixel(shell: Shell, offload: str) -> None:
    config = shell.folder / "config.toml"
    config.write_text(f'offload = "{offload}"\n', encoding="utf-8")
    file, _ = made(shell)
    config.unlink()
    assert shell("replay", file).exit_code == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vae_tile = 64", "sets vae_tile to 64; it should be greater than or equal to 256"),
        ("vae_tile = 300", "sets vae_tile to 300; it should be a multiple of 64"),
        ('quantize = "int2"', "it should be 'int8'"),
        ('offload = "all"', "it should be 'none', 'model' or 'sequential'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(shell: Shell, line: str, said: str) -> None:
    (shell.folder / "config.toml").write_text(line, encoding="utf-8")
    assert said in sentence(shell(*RABBIT))


def test_a_quantised_model_is_not_offloaded_by_layers(shell: Shell, gguf_file: Path) -> None:
    (shell.folder / "config.toml").write_text('offload = "sequential"', encoding="utf-8")
    said = sentence(shell(*RABBIT, "--model", gguf_file, "--base", "starter"))
    assert said == (
        "The model small.Q8_0 is quantised, so its layers cannot be offloaded one by one; set "
        'offload = "model".'
    )


def test_a_quantised_model_is_not_compiled(shell: Shell, gguf_file: Path) -> None:
    (shell.folder / "config.toml").write_text("compile = true", encoding="utf-8")
    said = sentence(shell(*RABBIT, "--model", gguf_file, "--base", "starter"))
    assert "cannot be compiled; set compile = false" in said
