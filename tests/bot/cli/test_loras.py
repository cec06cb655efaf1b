"""`imagine-bot generate --lora` and replay of such a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from generation.images.png import read_png
from generation.models.loading import load
from generation.models.locate import locate

from ...generation import loras
from .shell import Shell, sentence


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A LoRA for the starter model."""
    starter = load(locate("starter"), device="cpu", dtype="float32")
    found = loras.layers({"unet": starter.unet}, only="attn")
    return loras.save(loras.peft(found), tmp_path / "loras/wild.safetensors")


def test_a_lora_by_option_in_the_prompt_and_by_file_makes_one_picture_and_replay_finds_it(
    shell: Shell, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text('lora_folder = "loras"\n', encoding="utf-8")
    common = ("--seed", "3", "--steps", "2")
    made = [
        shell("generate", "a cat", *common),
        shell("generate", "a cat", "--lora", "wild:0.8", *common),
        shell("generate", "a cat <lora:Wild:0.8>", *common),
        shell("generate", "a cat", "--lora", f"{file}:0.8", *common),
    ]
    names = [Path(result.stdout.strip()) for result in made]
    pictures = [read_png(tmp_path.joinpath(name).read_bytes()) for name in names]
    hashes = [recipe.pixels_sha256 for _, recipe, _ in pictures]
    assert hashes[0] != hashes[1]
    assert hashes[1:] == [hashes[1]] * 3
    assert pictures[1][2].splitlines()[0] == "a cat <lora:wild:0.8>"
    assert "the same" in shell("replay", str(names[1])).stdout

    file.rename(tmp_path / "elsewhere.safetensors")
    gone = shell("replay", str(names[1]))
    assert "is gone" in sentence(gone)
    found = shell("replay", str(names[1]), "--lora", "elsewhere.safetensors")
    assert "the same" in found.stdout


def test_a_name_that_is_none_says_which_there_are(
    shell: Shell, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(f'lora_folder = "{file.parent}"\n', encoding="utf-8")
    assert "use wild" in sentence(shell("generate", "a cat", "--lora", "wilder"))
    assert "pickle" in sentence(shell("generate", "a cat", "--lora", "some.ckpt"))
