"""`imagine-bot doctor`."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generation.models.locate import starter_folder

from ...generation.examples import EDGE, STARTER
from ...generation.hub import Hub
from ...generation.single_file import write_single_file
from ...generation.tiny import tiny_pipeline
from .shell import Shell, imagine_bot


@pytest.fixture
def doctor(shell: Shell) -> Iterator[Callable[..., str]]:
    """The command in this process, which gets its log back afterwards; it finds a fault."""
    names = ("", "bot", "generation", "storage", "discord.client", "py.warnings")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]

    def run(*arguments: str) -> str:
        result = shell("doctor", *arguments)
        assert result.exit_code == 1
        return result.stdout

    yield run
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_doctor_says_what_is_well_and_how_to_fix_the_rest(
    doctor: Callable[..., str], tmp_path: Path
) -> None:
    lines = doctor("--data", "data").splitlines()
    assert "✗ token: there is none" in lines
    assert any(line.startswith("  → There is no Discord token; set") for line in lines)
    assert f"✓ model: starter, {EDGE}x{EDGE} pixels, {STARTER.prompt_limit} tokens" in lines
    assert any(line.startswith("✓ device: cpu, float32") for line in lines)
    assert "✓ weights: loaded, and one step was taken with them" in lines
    assert "✓ database: data does not exist yet; the bot makes it when it starts" in lines
    assert any(line[2:].startswith("space: ") for line in lines)
    assert not any(tmp_path.iterdir())


def test_doctor_tries_a_data_folder_that_is_there_and_one_that_cannot_be(
    doctor: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "file").write_text("in the way")
    out = doctor()
    assert "✓ database: data can be written" in out
    assert "✗ rights: other users of this machine may read data\n  → chmod 700 data" in out
    (tmp_path / "data").chmod(0o700)
    out = doctor("--data", "file/data")
    assert "✗ database: file/data does not exist and cannot be made" in out
    assert "or name another folder with --data" in out


def test_doctor_tells_a_dtype_from_a_device(doctor: Callable[..., str], tmp_path: Path) -> None:
    # As some editors on Windows write it, with a mark that says UTF-8.
    (tmp_path / "config.toml").write_text('device = "cpu"\ndtype = "float16"', "utf-8-sig")
    assert "✗ device: float16 cannot be used on cpu\n  → float16 is of no use on a CPU" in doctor()


def test_doctor_tells_all_faults_of_a_config_and_looks_at_the_rest(
    doctor: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(starter_folder(), tmp_path / "broken")
    weights = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    (tmp_path / "config.toml").write_text('modle = "x"\nqueue_limit = 0\nmodel = "broken"')
    monkeypatch.setenv("DISCORD_TOKEN", "'quoted'")
    out = doctor()
    assert out.count("✗ config: cannot be used") == 2
    assert "unknown key 'modle'" in out
    assert "sets queue_limit to 0" in out
    assert "✗ token: cannot be used\n  → The Discord token stands in quotes" in out
    assert "quoted'" not in out
    # Some faults of a model are seen in its files, and the others when it is loaded.
    assert "✗ weights: cannot be used\n  → " in out
    assert "unet" in out


def test_doctor_finds_a_database_that_is_none_and_a_device_that_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "imagine-bot.db").write_bytes(b"not a database at all" * 100)
    (tmp_path / "config.toml").write_text(
        'device = "cuda:7"\nmodel = "nobody/nothing-here"\nmin_free_mb = 1_000_000_000'
    )
    out = imagine_bot("doctor", cwd=tmp_path, HF_HUB_OFFLINE="1").stdout
    assert "✗ database: the data folder cannot be used" in out
    assert "✗ device: cuda:7 cannot be used" in out
    assert "✗ model: nobody/nothing-here cannot be used" in out
    assert re.search(
        r"✗ space: data has only \d+ MB left, and below 1000000000 MB \(min_free_mb\) the bot "
        r"accepts no jobs\n  → make room",
        out,
    )


LOOK_AT_MODELS = """
import sys
from pathlib import Path
from bot.cli.doctor import _models, _weights
from bot.config import Settings
for model in sys.argv[1:]:
    settings = Settings(model=model, data=Path("data"))
    (model,), (weights,) = _models(settings), _weights(settings)
    print(model.text, "|", weights.text)
"""


def test_doctor_downloads_and_converts_no_model(tmp_path: Path) -> None:
    file, home = tmp_path / "whole.safetensors", tmp_path / "home"
    write_single_file(tiny_pipeline(), file)
    with Hub.running() as hub:
        hub.add_folder("owner/rabbit", starter_folder())
        own = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "PATH": "/usr/bin:/bin"}
        said = subprocess.check_output(
            [sys.executable, "-c", LOOK_AT_MODELS, "owner/rabbit", str(file)], text=True, env=own
        )
        assert hub.downloads() == []
    assert not home.exists()
    left = "not tried, because the model has to be brought here first"
    of_the_hub, of_the_file = said.splitlines()
    weights = sum(path.stat().st_size for path in starter_folder().rglob("*.safetensors"))
    there = re.fullmatch(
        r"The model owner/rabbit is not on this machine yet \((\d+) MB\); imagine-bot models pull "
        rf"downloads it, and the bot downloads its default model when it starts\. \| {left}",
        of_the_hub,
    )
    assert there is not None
    assert 0 <= int(there[1]) - weights // 1_000_000 <= 3
    assert of_the_file == (
        f"The model {file} is a whole checkpoint, which has to be converted; imagine-bot models "
        "pull converts it, and the bot converts its default model when it starts."
        f" | {left}"
    )


def test_doctor_names_a_folder_that_cannot_be_one(doctor: Callable[..., str]) -> None:
    assert f"{'d' * 300} cannot be a folder" in doctor("--data", "d" * 300)


def test_doctor_checks_each_model_of_the_list(doctor: Callable[..., str], tmp_path: Path) -> None:
    shutil.copytree(starter_folder(), tmp_path / "broken")
    weights = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    (tmp_path / "config.toml").write_text(
        """
        [[models]]
        name = "Emoji"
        source = "starter"
        [[models]]
        name = "Filtered"
        source = "starter"
        needs_filter = true
        [[models]]
        name = "Broken"
        source = "broken"
        """
    )
    lines = doctor().splitlines()
    assert f"✓ model: Emoji, {EDGE}x{EDGE} pixels, {STARTER.prompt_limit} tokens" in lines
    needs = "its licence demands a content filter, so it works on the command line only"
    assert any(line.startswith("✓ model: Filtered, ") and line.endswith(needs) for line in lines)
    assert "✓ weights: of Emoji: loaded, and one step was taken with them" in lines
    assert "✗ weights: of Broken: cannot be used" in lines


def test_doctor_says_what_a_card_needs(doctor: Callable[..., str]) -> None:
    lines = doctor("--card", "8").splitlines()
    (said,) = [line for line in lines if "memory: " in line]
    assert said.startswith("✓ memory: starter: weights 0.0 GB (text_encoder 0.0 GB, unet 0.0 GB, ")
    assert said.endswith("to decode a picture, so about 0.6 GB as it is set")
    lines = doctor("--card", "0.5").splitlines()
    assert "  → a card of 0.5 GB is too small for this model; choose a smaller one" in lines


def test_doctor_looks_at_loras_and_embeddings(doctor: Callable[..., str], tmp_path: Path) -> None:
    for name in ("loras", "embeddings"):
        (tmp_path / name).mkdir()
    broken = tmp_path / "loras/broken.safetensors"
    broken.write_bytes(b"broken")
    (tmp_path / "loras/old.pt").touch()
    file = tmp_path / "config.toml"
    file.write_text(
        f'lora_folder = "{tmp_path}/loras"\nembedding_folder = "{tmp_path}/nowhere"\n',
        encoding="utf-8",
    )
    said = doctor("--config", file)
    assert "LoRAs: 1 found, faults: 2" in said
    assert f"{broken} cannot be loaded" in said
    assert "pickles, which are never read" in said
    assert f"embeddings: there is no folder {tmp_path}/nowhere" in said
