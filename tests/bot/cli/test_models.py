"""`imagine-bot models`, against a hub on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.cli import models
from generation.catalog.cache import removal
from generation.models.locate import starter_folder

from ...generation.denoisers import folder_tensors, write_gguf
from ...generation.hub import Hub
from .shell import Shell, sentence

CONFIG = """
[[models]]
name = "Emoji"
source = "starter"

[[models]]
name = "Rabbit"
source = "owner/rabbit"

[[models]]
name = "Mine"
source = "mine"
licence = "Apache 2.0"
needs_filter = true

[[models]]
name = "Nobody's"
source = "nobody/nothing"
"""
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub.running() as hub:
        hub.add_folder("owner/rabbit", starter_folder())
        hub.licences["owner/rabbit"] = "openrail++"
        yield hub


# The hub's client reads its settings when it is imported, so the commands have a process.
TYPE = """
import json, sys
from typer.testing import CliRunner
from bot.cli.app import app
results = [CliRunner().invoke(app, ["models", *words]) for words in json.loads(sys.argv[1])]
print(json.dumps([[r.exit_code, r.stdout, r.stderr] for r in results]))
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    def line_of(self, name: str) -> str:
        return next(line for line in self.out.splitlines() if line.startswith(f"{name} "))


class Operator:
    """Types commands beside a config, with a cache of their own."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder
        self.hub = hub
        (folder / "config.toml").write_text(CONFIG)
        (folder / "mine").symlink_to(starter_folder())

    def types(self, *commands: str) -> list[Said]:
        """Run commands one after the other, each in words: `pull Rabbit`."""
        words = json.dumps([command.split() for command in commands])
        home = {"HF_HOME": str(self.folder / "home"), "HF_ENDPOINT": self.hub.url}
        said = subprocess.run(
            [sys.executable, "-c", TYPE, words],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3]), **home},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return [Said(*result) for result in json.loads(said.stdout)]

    @property
    def blobs(self) -> list[Path]:
        return sorted((self.folder / "home").glob("hub/models--owner--rabbit/blobs/*"))


@pytest.fixture
def operator(tmp_path: Path, hub: Hub) -> Operator:
    return Operator(tmp_path, hub)


def test_a_model_is_pulled_checked_and_removed(operator: Operator) -> None:
    (listed,) = operator.types("list")
    assert "not here: imagine-bot models pull brings it" in listed.line_of("Rabbit")
    assert not operator.blobs

    pulled, listed, checked, asked = operator.types("pull rabbit", "list", "check", "remove Rabbit")
    licence, done = pulled.out.splitlines()
    assert licence == "Rabbit: licence openrail++"
    size = sum(path.stat().st_size for path in starter_folder().rglob("*.safetensors")) / 1e6
    assert done.startswith(f"Rabbit: here, {size:,.0f} MB in ")
    assert listed.line_of("Rabbit").endswith(" MB  here")
    assert "files are whole (" in checked.out
    assert "Nobody's" in checked.err
    assert (pulled.code, listed.code, checked.code, asked.code) == (0, 0, 1, 1)
    assert "Remove Rabbit (" in asked.err
    assert operator.blobs

    removed, again = operator.types("remove Rabbit --yes", "remove Rabbit --yes")
    assert "Rabbit: removed, " in removed.out
    assert again.out == "Rabbit: there is nothing to remove\n"
    assert (removed.code, again.code) == (0, 0)
    assert not operator.blobs


@pytest.mark.rare
def test_an_interrupted_download_keeps_what_is_finished(operator: Operator) -> None:
    operator.hub.broken.add(WEIGHTS)
    failed, listed = operator.types("pull Rabbit", "list")
    assert failed.code == 1
    assert failed.err.splitlines()[-1] == (
        "error: Rabbit: The hub cannot hand out the model owner/rabbit at the moment (status 500); "
        "try again in a few minutes."
    )
    assert "not here" in listed.line_of("Rabbit")
    operator.hub.broken.clear()
    operator.hub.requests.clear()
    assert operator.types("pull Rabbit")[0].code == 0
    downloads = operator.hub.downloads()
    assert WEIGHTS in downloads
    assert len(downloads) < len(operator.hub.models["owner/rabbit"])


def test_files_that_are_not_the_hubs_are_found(operator: Operator) -> None:
    operator.types("pull Rabbit")
    for blob in operator.blobs:
        data = blob.read_bytes()
        # A large file, which is named by its SHA-256, and a small one, named by its id in git.
        if len(blob.name) == 64:
            blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        elif b'"guidance_scale": 2.5' in data:
            blob.write_bytes(data.replace(b"2.5", b"2.6"))
    (checked,) = operator.types("check Rabbit")
    assert checked.code == 1
    for name in ("defaults.json", WEIGHTS):
        assert f"{name} has another hash than on the hub; the file is damaged." in checked.err
    assert "run imagine-bot models remove 'Rabbit', then pull." in checked.err


def test_each_model_of_the_list_is_told(operator: Operator) -> None:
    (listed,) = operator.types("list")
    assert listed.out.splitlines()[0].split() == ["name", "family", "licence", "size", "state"]
    assert "  Stable Diffusion 1 or 2  MIT " in listed.line_of("Emoji")
    assert listed.line_of("Emoji").endswith("here; used when a person names none")
    assert "  not stated  " in listed.line_of("Rabbit")
    assert "  Apache 2.0  " in listed.line_of("Mine")
    assert listed.line_of("Mine").endswith(
        "here; not in Discord: the licence demands a content filter"
    )
    assert "cannot be used: There is no folder nobody/nothing" in listed.line_of("Nobody's")


def test_models_that_are_the_operators_own_or_the_bots_are_not_removed(
    shell: Shell, operator: Operator
) -> None:
    assert sentence(shell("models", "remove", "Emoji", "--yes")) == (
        "The model Emoji is a part of the bot; it cannot be removed."
    )
    assert sentence(shell("models", "remove", "Mine", "--yes")) == (
        "The model Mine is in a folder of your own, mine; remove that folder yourself."
    )
    assert sentence(shell("models", "remove", "Other", "--yes")) == (
        "There is no model 'Other' in the list; use Emoji or Rabbit or Mine or Nobody's."
    )


def test_nothing_is_removed_while_the_bot_runs(
    shell: Shell, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.data_folder, "is_in_use", lambda _: True)
    assert "stop the bot first" in sentence(shell("models", "remove", "Rabbit", "--yes"))


def test_what_the_bot_converted_is_removed(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "assets" / "converted"
    shutil.copytree(starter_folder(), folder)
    monkeypatch.setattr(removal, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    (tmp_path / "config.toml").write_text(f'model = "{folder}"')
    result = shell("models", "remove", "converted", "--yes")
    assert result.exit_code == 0, result.output
    assert not folder.exists()


def test_the_files_beside_the_folder_are_checked_too(shell: Shell, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "small.gguf", folder_tensors(starter_folder(), "unet"))
    vae = tmp_path / "own.safetensors"
    shutil.copy(starter_folder() / "vae" / "diffusion_pytorch_model.safetensors", vae)
    (tmp_path / "config.toml").write_text(
        f'[[models]]\nname = "Small"\nsource = "{gguf}"\nbase = "starter"\nvae = "{vae}"\n'
    )
    result = shell("models", "check")
    assert result.exit_code == 0, result.stderr
    weights = list(starter_folder().rglob("*.safetensors"))
    # The weights of the folder without those of the denoiser, and the two files beside.
    assert f"and {len(weights) - 1 + 2} are as long as their headers say" in result.stdout
    vae.write_bytes(vae.read_bytes()[:-1])
    broken = shell("models", "check")
    assert broken.exit_code == 1
    assert "own.safetensors" in broken.stderr


def test_a_base_that_another_model_needs_is_not_removed(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "models--owner--rabbit"
    base.mkdir()
    monkeypatch.setattr(removal, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "config.toml").write_text(
        """
        [[models]]
        name = "Rabbit"
        source = "owner/rabbit"
        [[models]]
        name = "Small rabbit"
        source = "rabbit.gguf"
        base = "owner/rabbit"
        """
    )
    for name, other in (("Rabbit", "Small rabbit"), ("Small rabbit", "Rabbit")):
        assert sentence(shell("models", "remove", name, "--yes")) == (
            f"The model {name} has its files in common with {other}; name those too, to remove all "
            "of them."
        )
    assert base.exists()
    both = shell("models", "remove", "Rabbit", "Small rabbit", "--yes")
    assert both.exit_code == 0, both.stderr
    assert "Small rabbit: there is nothing to remove" in both.stdout
    assert not base.exists()
