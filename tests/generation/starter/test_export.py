"""A trained model: exported, adopted, shown, and its card."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from generation.starter.gallery import app as gallery
from generation.starter.train import _settings as command_settings
from generation.starter.training.card import card
from generation.starter.training.drawings.sheet import Painter, request, sheet
from generation.starter.training.drawings.sources import PACKAGES
from generation.starter.training.export import DEFAULTS, adopt, export, park
from generation.starter.training.learning.autoencoder import (
    trained,
)
from generation.starter.training.learning.networks import (
    TOKENS,
    WORDS,
)
from generation.starter.training.learning.progress import (
    read,
)
from generation.starter.training.learning.trainer import train

from .album import TINY
from .tasks import ALBUM, SETTINGS, autoencoding, diffusion


class TestExport:
    def test_the_engine_paints_with_the_exported_model(self, work: Path) -> None:
        painter = Painter.open(work / "model")
        assert painter.edge == TINY.edge
        wanted = [request("a red ball", seed, edge=painter.edge, steps=2) for seed in (1, 2, 1)]
        first, second, again = painter.paint(wanted)
        assert first.shape == (32, 32, 3)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, second)

    @pytest.mark.rare
    @pytest.mark.parametrize(
        ("command", "rows", "columns"), [("grid", 2, 8), ("variations", 2, 6), ("guidance", 3, 4)]
    )
    def test_the_gallery_shows_what_it_can_do(
        self, work: Path, tmp_path: Path, command: str, rows: int, columns: int
    ) -> None:
        file = tmp_path / "shown.png"
        result = CliRunner().invoke(gallery, [command, str(file), "--model", str(work / "model")])
        assert result.exit_code == 0, result.output
        with Image.open(file) as shown:
            assert shown.size == (columns * TINY.edge, rows * TINY.edge)
            pictures = np.asarray(shown.convert("RGB")).reshape(rows, TINY.edge, columns, -1)
        apart = {pictures[row, :, column].tobytes() for row, column in np.ndindex(rows, columns)}
        # The source of the variations is there twice.
        assert len(apart) == rows * columns - (command == "variations")

    def test_its_texts_are_as_long_as_the_text_encoder_makes_them(
        self, work: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(work, tmp_path / "older")
        file = tmp_path / "older" / "tokenizer" / "tokenizer_config.json"
        settings = json.loads(file.read_text("utf-8"))
        del settings["prompt_tokens"]
        file.write_text(json.dumps(settings | {"model_max_length": TOKENS - 8}), "utf-8")
        export(tmp_path / "older", tmp_path / "model", TINY)
        profile = Painter.open(tmp_path / "model").parts.profile
        assert (profile.token_limit, profile.prompt_limit) == (TOKENS, WORDS)

    def test_its_tokenizer_is_that_of_the_training_in_half_the_bytes(self, work: Path) -> None:
        here, there = (folder / "tokenizer" / "tokenizer.json" for folder in (work, work / "model"))
        assert json.loads(there.read_text("utf-8")) == json.loads(here.read_text("utf-8"))
        assert there.stat().st_size < 0.6 * here.stat().st_size

    def test_it_predicts_v_and_has_the_scale_of_its_training(self, work: Path) -> None:
        profile = Painter.open(work / "model").parts.profile
        state = read(work / "diffusion.pt")
        assert state is not None
        assert profile.prediction_type == "v_prediction"
        found = {
            "steps": profile.default_steps,
            "guidance_scale": profile.default_guidance_scale,
            "strength": profile.default_strength,
            "max_size": profile.default_max_size,
        }
        assert found == DEFAULTS
        vae = Painter.open(work / "model").parts.vae
        assert vae.config.scaling_factor == pytest.approx(state["facts"]["scale"])

    def test_its_weights_are_the_averages_in_half_precision(self, work: Path) -> None:
        state = read(work / "diffusion.pt")
        assert state is not None
        unet = Painter.open(work / "model").parts.unet
        for name, value in unet.named_parameters():
            assert torch.equal(value, state["average"][f"unet.{name}"].half().to(value.dtype))

    def test_a_part_that_is_not_trained_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"diffusion\.pt"):
            export(tmp_path, tmp_path / "model", TINY)
        with pytest.raises(FileNotFoundError, match=r"autoencoder\.pt"):
            trained(TINY, tmp_path)


class TestAdoption:
    def test_training_goes_on_from_an_exported_model(
        self, work: Path, tokenizer: Any, tmp_path: Path
    ) -> None:
        adopt(work / "model", tmp_path, TINY)
        before, after = read(work / "diffusion.pt"), read(tmp_path / "diffusion.pt")
        assert before is not None
        assert after is not None
        for name, value in before["average"].items():
            assert torch.equal(after["average"][name], value.half().float())
        for count in ("step", "images"):
            assert after[count] == before[count]
        train(diffusion(tokenizer), SETTINGS, tmp_path, until=3)
        train(autoencoding(None), SETTINGS, tmp_path, until=3)
        export(tmp_path, tmp_path / "again", TINY)
        assert Painter.open(tmp_path / "again").edge == TINY.edge
        state = read(tmp_path / "diffusion.pt")
        assert state is not None
        assert (state["step"], state["images"]) == (3, before["images"] + 4)
        assert state["optimizers"] is not None

    def test_the_rate_is_warmed_up_again(self, work: Path, tmp_path: Path) -> None:
        adopt(work / "model", tmp_path, TINY)
        schedule = command_settings(
            tmp_path / "diffusion.pt", 4, 1.0, 4, None, "no", 10, 0
        ).schedule
        assert [schedule.rate(step) for step in (2, 3, 5, 9)] == [0.25, 0.5, 1.0, 1.0]

    def test_all_that_is_trained_is_parked(self, work: Path, tmp_path: Path) -> None:
        park(work, tmp_path / "parked", TINY)
        adopt(tmp_path / "parked", tmp_path, TINY)
        for name in ("autoencoder", "diffusion"):
            before, after = read(work / f"{name}.pt"), read(tmp_path / f"{name}.pt")
            assert before is not None
            assert after is not None
            assert after["step"] == before["step"]
        assert (tmp_path / "tokenizer").is_dir()

    def test_an_autoencoder_goes_on_before_there_is_anything_else(
        self, work: Path, tmp_path: Path
    ) -> None:
        alone = tmp_path / "alone"
        alone.mkdir()
        shutil.copy(work / "autoencoder.pt", alone)
        park(alone, tmp_path / "parked", TINY)
        adopt(tmp_path / "parked", tmp_path, TINY)
        before, after = read(work / "autoencoder.pt"), read(tmp_path / "autoencoder.pt")
        assert before is not None
        assert after is not None
        assert (after["step"], after["images"]) == (before["step"], before["images"])
        for name, value in before["average"].items():
            assert torch.equal(after["average"][name], value.half().float())
        train(autoencoding(None), SETTINGS, tmp_path, until=3)
        assert not (tmp_path / "diffusion.pt").exists()

    def test_a_model_of_another_shape_is_refused(self, work: Path, tmp_path: Path) -> None:
        park(work, tmp_path / "parked", TINY)
        deeper = replace(TINY, text_layers=TINY.text_layers + 1)
        with pytest.raises(ValueError, match=r"text_encoder in .* is of another shape"):
            adopt(tmp_path / "parked", tmp_path / "new", deeper)
        assert not (tmp_path / "new").exists()
        wider = replace(TINY, latent_channels=TINY.latent_channels * 2)
        with pytest.raises(ValueError, match=r"vae in .* is of another shape"):
            adopt(tmp_path / "parked", tmp_path / "other", wider)
        assert not (tmp_path / "other").exists()

    def test_so_is_a_model_for_other_noise(self, work: Path, tmp_path: Path) -> None:
        park(work, tmp_path / "parked", TINY)
        file = tmp_path / "parked/scheduler/scheduler_config.json"
        config = json.loads(file.read_text("utf-8"))
        file.write_text(json.dumps(config | {"beta_end": 0.012}), "utf-8")
        with pytest.raises(ValueError, match="another schedule of noise"):
            adopt(tmp_path / "parked", tmp_path / "new", TINY)
        assert not (tmp_path / "new").exists()

    def test_checkpoints_are_not_written_over(self, work: Path) -> None:
        with pytest.raises(FileExistsError, match=r"holds autoencoder\.pt"):
            adopt(work / "model", work, TINY)


def test_a_sheet_shows_all_pictures_row_by_row() -> None:
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)
    image = np.asarray(sheet(pictures, 2))
    assert image.shape == (6, 6, 3)
    assert image[::2, ::3, 0].tolist() == [[0, 1], [2, 3], [4, 255]]


class TestCard:
    FIGURES: ClassVar = [
        {"name": "name", "value": 0.5, "goal": 0.95, "count": 300},
        {"name": "guidance 1: name", "value": 0.25, "goal": None, "count": 100},
    ]

    def test_it_says_what_was_trained_on_what_and_how_well(
        self, work: Path, tmp_path: Path
    ) -> None:
        model = shutil.copytree(work / "model", tmp_path / "model")
        counts = {"autoencoder": {"images": 1_200}, "diffusion": {"images": 34_000, "scenes": 560}}
        (model / "training.json").write_text(json.dumps(counts), "utf-8")
        painter = Painter.open(model)
        text = card(painter.parts, ALBUM, self.FIGURES)
        assert "on 34,000 images of 560 scenes, the autoencoder on 1,200 crops." in text
        assert "| name | 0.500 | 0.95 | 300 |\n| guidance 1: name | 0.250 |  | 100 |" in text
        assert "Pictures: 32x32. Latents: 4x8x8." in text
        assert f"guidance scale of {DEFAULTS['guidance_scale']:g}." in text
        assert "5 things with 10 pictures in the styles noto, flat" in text
        for package in PACKAGES:
            assert f"| `{package.name}` | {package.version} | {package.licence} |" in text

    def test_no_place_is_left_open(self, work: Path) -> None:
        painter = Painter.open(work / "model")
        assert not re.search(r"\{\w*\}", card(painter.parts, ALBUM, []))
