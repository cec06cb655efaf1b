"""Mistakes in options, files and settings: one sentence each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from bot.cli import generate
from bot.config import Settings, load_settings
from bot.listing import ListedLora, ListedModel
from generation.models.locate import starter_folder

from .shell import Shell, sentence


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", ""], "The prompt is empty"),
        (["generate", "x" * 1001], "The prompt has 1,001 characters"),
        (
            ["generate", "rabbit", "--steps", "0"],
            "For steps use a whole number",
        ),
        (["generate", "rabbit", "--steps", "10000"], "not 10000."),
        (["generate", "rabbit", "--width", "100"], "not a multiple of 8"),
        (
            ["generate", "rabbit", "--height", "4096"],
            "For height use a whole number",
        ),
        (
            ["generate", "rabbit", "--seed", "-1"],
            "For seed use a whole number",
        ),
        (["generate", "rabbit", "--seed", str(2**40)], "not 1099511627776."),
        (["generate", "rabbit", "--scheduler", "restart"], "There is no scheduler 'restart'"),
        (["generate", "rabbit", "--spacing", "wide"], "There is no spacing 'wide'"),
        (["generate", "rabbit", "--spacing", "karras"], "The scheduler ddim has no spacing karras"),
        (["generate", "rabbit", "--scheduler", "lcm", "--steps", "60"], "takes at most 50 steps"),
        (["generate", "rabbit", "--count", "5"], "For count use"),
        (["generate", "rabbit", "--strength", "0.5"], "add --image FILE"),
        (["generate", "rabbit", "--image", "missing.png"], "missing.png cannot be read"),
        (["generate", "rabbit", "--model", "/nowhere"], "/nowhere"),
        (["generate", "rabbit", "--model", ""], "There is no model '' in the list; use starter."),
        (["generate", "rabbit", "--config", "missing.toml"], "missing.toml cannot be read"),
        (["replay", "missing.png"], "missing.png cannot be read"),
        (["replay", "/dev/zero"], "send an image of at most 25 MiB"),
        (["generate", "rabbit", "--image", "/dev/zero"], "send an image of at most 25 MiB"),
        (["replay", "77"], "does not exist"),
        (["generate", "x", "--reference", "a.png"], "starter cannot edit by instruction; use"),
        (["generate", "x", "--reference", "a.png", "--image", "b.png"], "Use either --image"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_sentence(
    shell: Shell, tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in sentence(shell(*arguments))


def test_a_seed_that_is_text_is_refused_by_the_command_line(shell: Shell, tmp_path: Path) -> None:
    result = shell("generate", "rabbit", "--seed", "seven")
    assert result.exit_code == 2
    assert "Invalid value for '--seed'" in result.stderr


def test_replay_of_a_picture_without_a_recipe_says_so(shell: Shell, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    said = sentence(shell("replay", "plain.png"))
    assert said.startswith("That picture holds no recipe of Imagine Bot")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("queue_limit = ", "config.toml is not valid TOML"),
        ('modle = "starter"', "config.toml has an unknown key 'modle'; did you mean 'model'?"),
        ('queue_limit = "lots"', "config.toml sets queue_limit to 'lots'"),
        ("max_steps = 0", "config.toml sets max_steps to 0"),
        ('dtype = "float8"', "config.toml sets dtype to 'float8'"),
        ('device = "gpu"', "There is no device 'gpu'; say cuda, cuda:1, mps or cpu"),
    ],
)
def test_a_wrong_config_names_the_key_and_the_value(
    shell: Shell, tmp_path: Path, toml: str, said: str
) -> None:
    (tmp_path / "config.toml").write_text(toml)
    assert said in sentence(shell("generate", "rabbit"))


def test_a_wrong_environment_variable_is_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINE_BOT_QUEUE_LIMIT", "lots")
    said = sentence(shell("generate", "x"))
    assert "IMAGINE_BOT_QUEUE_LIMIT" in said
    assert "'lots'" in said


def test_a_misspelled_environment_variable_is_not_passed_over(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINE_BOT_MODLE", "starter")
    assert sentence(shell("generate", "owl")) == (
        "the environment has an unknown key 'IMAGINE_BOT_MODLE'; did you mean 'IMAGINE_BOT_MODEL'?"
    )


def test_every_key_of_the_example_config_is_right(shell: Shell, tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "config.example.toml"
    lines = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in example.read_text().splitlines()
    ]
    text = "\n".join(lines).replace('device = "cuda"', 'device = "cpu"')
    single, first, tables = text.partition("# [[models]]\n")
    (tmp_path / "config.toml").write_text(single)
    settings = load_settings(tmp_path / "config.toml")
    assert settings.model_fields_set == {*Settings.model_fields} - {"models", "loras"}
    (tmp_path / "config.toml").write_text((first + tables).replace("# [[", "[["))
    settings = load_settings(tmp_path / "config.toml")
    models = {key for listed in settings.models for key in listed.model_fields_set}
    assert models == {*ListedModel.model_fields}
    assert {key for lora in settings.loras for key in lora.model_fields_set} == {
        *ListedLora.model_fields
    }


def test_a_broken_model_gets_one_sentence(shell: Shell, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(starter_folder(), model)
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "pickle" in sentence(shell("generate", "x", "--model", model))
    weights.with_suffix(".bin").unlink()
    assert "vae" in sentence(shell("generate", "x", "--model", model))


def test_a_folder_that_cannot_be_written_gets_one_sentence(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = sentence(shell("generate", "x", "--steps", "1", "--out", "file/folder"))
    assert "name another with --out" in said


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_refused_before_a_model_is_loaded(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "open_engine", None)
    # Even the superuser, whom no mode stops, can make no file there.
    said = sentence(shell("generate", "x", "--out", "/proc"))
    assert said.startswith("Nothing can be written to /proc (")
    assert said.endswith("name another with --out.")
