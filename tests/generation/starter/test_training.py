from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from generation.starter import train as training
from generation.starter.gallery import app as gallery
from generation.starter.train import _settings as command_settings
from generation.starter.train import app
from generation.starter.training.card import card
from generation.starter.training.drawings.scenes import compose, draw_scene, hold_out
from generation.starter.training.drawings.sheet import Painter, request, sheet
from generation.starter.training.drawings.sources import PACKAGES
from generation.starter.training.export import DEFAULTS, adopt, export, park
from generation.starter.training.learning.autoencoder import (
    AutoencoderTask,
    held_out_psnr,
    settle_encoder,
    to_tensor,
    trained,
)
from generation.starter.training.learning.diffusion import DiffusionTask
from generation.starter.training.learning.latents import encode, read_latents
from generation.starter.training.learning.networks import (
    TOKENS,
    WORDS,
    new_autoencoder,
    noise_schedule,
)
from generation.starter.training.learning.progress import (
    Average,
    Schedule,
    read,
    save,
    step_generator,
)
from generation.starter.training.learning.reading import ReadingTask
from generation.starter.training.learning.sketches import FORMS
from generation.starter.training.learning.trainer import Precision, Settings, Task, _Steps, train
from generation.starter.training.learning.vocabulary import read_tokenizer, train_tokenizer

from .album import STYLES, TINY, album

ALBUM = album()
HELD = hold_out(ALBUM.things, STYLES, 0)
SETTINGS = Settings(4, Schedule(1e-2, warmup=2), log_every=1, save_every=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(ALBUM.things, TINY.vocabulary, folder)
    return read_tokenizer(folder)


def autoencoding(_: Any) -> Task:
    return AutoencoderTask(ALBUM, TINY, 0)


# Each of one colour, which is quickly told from noise: of noise alone next to nothing is learnt.
LATENTS = (2 * torch.randn(60, 4, 1, 1, generator=step_generator(0, 0))).half().repeat(1, 1, 8, 8)


def diffusion(tokenizer: Any) -> DiffusionTask:
    return DiffusionTask(ALBUM, HELD, LATENTS, tokenizer, TINY, 0)


def scaled_latents(task: DiffusionTask) -> torch.Tensor:
    assert task.scale == pytest.approx(0.5, abs=0.05)
    return LATENTS.float() * task.scale


def reading(tokenizer: Any) -> Task:
    shape = (len(ALBUM.pictures), len(FORMS), 2, 4, 8, 8)
    forms = torch.randn(shape, generator=step_generator(0, 0)).half()
    return ReadingTask(ALBUM, HELD, forms, 60, tokenizer, TINY, 0)


@pytest.mark.parametrize("task", [autoencoding, reading, diffusion])
class TestEachTask:
    def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
        self, task: Any, tokenizer: Any, tmp_path: Path
    ) -> None:
        train(task(tokenizer), SETTINGS, tmp_path / "whole", until=5)
        for until in (2, 3, 5):
            train(task(tokenizer), SETTINGS, tmp_path / "parts", until=until)
        name = f"{task(tokenizer).name}.pt"
        whole, parts = read(tmp_path / "whole" / name), read(tmp_path / "parts" / name)
        assert whole is not None
        assert parts is not None
        assert (whole["step"], whole["images"]) == (parts["step"], parts["images"])
        for kind in ("network", "average"):
            assert whole[kind].keys() == parts[kind].keys()
            assert all(torch.equal(whole[kind][key], parts[kind][key]) for key in whole[kind])

    def test_what_makes_batches_in_a_worker_has_no_network(self, task: Any, tokenizer: Any) -> None:
        whole = task(tokenizer)
        sent = pickle.dumps(_Steps(whole, 0, 4))
        found = pickle.loads(sent)[5]
        assert not hasattr(pickle.loads(sent)._task, "network")
        expected = whole.batch(5, 0, 4)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name].nan_to_num(7.0), value.nan_to_num(7.0))

    @pytest.mark.rare
    def test_training_lowers_the_loss_of_a_batch_it_has_seen(
        self, task: Any, tokenizer: Any, tmp_path: Path
    ) -> None:
        # Of fewer the loss is chance: how much noise each gets decides it.
        settings = Settings(16, Schedule(5e-3, warmup=2))
        pupil = task(tokenizer)
        batch = pupil.batch(0, 0, 64)
        with torch.no_grad():
            before = float(pupil.loss(pupil.network, batch)[0])
        train(pupil, settings, tmp_path, until=40)
        with torch.no_grad():
            assert float(pupil.loss(pupil.network, batch)[0]) < 0.9 * before

    def test_processes_get_different_batches_and_the_same_again(
        self, task: Any, tokenizer: Any
    ) -> None:
        pupil = task(tokenizer)
        first, again, other = (pupil.batch(3, rank, 4) for rank in (0, 0, 1))
        for name, value in first.items():
            torch.testing.assert_close(value, again[name], rtol=0, atol=0, equal_nan=True)
        assert not all(torch.equal(value, other[name]) for name, value in first.items())

    def test_a_wish_to_stop_is_granted_with_a_checkpoint(
        self, task: Any, tokenizer: Any, tmp_path: Path
    ) -> None:
        def interrupt(line: dict[str, Any]) -> None:
            if line["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        pupil = task(tokenizer)
        before = signal.getsignal(signal.SIGTERM)
        train(pupil, SETTINGS, tmp_path, until=50, report=interrupt)
        state = read(tmp_path / f"{pupil.name}.pt")
        assert state is not None
        assert state["step"] == 3
        assert signal.getsignal(signal.SIGTERM) == before


class TestRates:
    def test_they_rise_stay_and_fall_to_a_floor(self) -> None:
        schedule = Schedule(1.0, warmup=4, decay_from=10, decay_steps=10, floor=0.1)
        assert [schedule.rate(step) for step in (0, 1, 3, 9, 10)] == [0.25, 0.5, 1, 1, 1]
        assert schedule.rate(15) == pytest.approx(0.5)
        assert schedule.rate(20) == schedule.rate(500) == pytest.approx(0.1)
        assert schedule.last_step == 20

    def test_without_a_decay_there_is_no_end(self) -> None:
        assert Schedule(2.0, warmup=1).rate(10**8) == 2.0
        assert Schedule(2.0).last_step is None


def test_the_average_follows_quickly_at_first_and_slowly_later() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.zero_()
    average = Average(network, decay=0.99)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average.update(network, 0)
    assert float(average.values["weight"]) == pytest.approx(0.9)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average.update(network, 10**6)
    assert float(average.values["weight"]) == pytest.approx(0.9 * 0.99)


def test_the_pure_velocity_has_no_loss(tokenizer: Any) -> None:
    task = diffusion(tokenizer)
    batch = task.batch(0, 0, 6)

    class Knowing(nn.Module):
        def forward(self, *_: torch.Tensor) -> torch.Tensor:
            return batch["velocity"]

    assert float(task.loss(Knowing(), batch)[0]) == 0.0


def test_the_velocity_is_that_of_the_schedulers(tokenizer: Any) -> None:
    task = diffusion(tokenizer)
    whole = task.batch(0, 0, 12)
    some = whole["timesteps"] < 999
    batch = {name: value[some] for name, value in whole.items()}
    schedule = noise_schedule()
    signal_share = schedule.alphas_cumprod[batch["timesteps"]].sqrt()[:, None, None, None]
    noise_share = (1 - signal_share.square()).sqrt()
    # v and the noisy latents determine both the latents and the noise.
    latents = signal_share * batch["noisy"] - noise_share * batch["velocity"]
    noise = noise_share * batch["noisy"] + signal_share * batch["velocity"]
    known = scaled_latents(task)
    for latent in latents:
        assert (known - latent).abs().amax((1, 2, 3)).min() < 1e-3
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    expected = schedule.get_velocity(latents, noise, batch["timesteps"])
    assert torch.allclose(batch["velocity"], expected, atol=1e-5)


def test_some_begin_with_noise_alone_as_every_picture_does(tokenizer: Any) -> None:
    task = diffusion(tokenizer)
    batch = task.batch(0, 0, 600)
    begins = batch["timesteps"] == 999
    assert 0.03 < float(begins.float().mean()) < 0.08
    noise, velocity = batch["noisy"][begins], batch["velocity"][begins]
    left = noise_schedule().alphas_cumprod[999]
    latents = (left.sqrt() * noise - velocity) / (1 - left).sqrt()
    known = scaled_latents(task)
    # By far the most of what has that timestep is there to begin, and holds nothing of its picture.
    errors = [float((known - latent).abs().amax((1, 2, 3)).min()) for latent in latents]
    assert sum(error < 1e-3 for error in errors) >= 0.9 * len(errors)


def test_the_weights_are_those_of_min_snr_for_v(tokenizer: Any) -> None:
    batch = diffusion(tokenizer).batch(0, 0, 50)
    alphas = noise_schedule().alphas_cumprod[batch["timesteps"]]
    ratio = alphas / (1 - alphas)
    # Hang et al. divide by SNR + 1 for v; here what is almost noise keeps its weight of one.
    assert torch.allclose(batch["weights"], (ratio + 1).clamp(max=5) / (ratio + 1))
    assert float(batch["weights"].max()) == 1.0


def test_what_is_much_noise_is_drawn_oftener(tokenizer: Any) -> None:
    timesteps = diffusion(tokenizer).batch(0, 0, 10_000)["timesteps"]
    assert int(timesteps.min()) >= 0
    assert int(timesteps.max()) < 1_000
    early = float((timesteps < 500).float().mean())
    assert early == pytest.approx(0.25, abs=0.02)


def test_one_prompt_in_ten_is_empty(tokenizer: Any) -> None:
    ids = diffusion(tokenizer).batch(0, 0, 1_000)["ids"]
    empty = (ids[:, 1] == tokenizer.eos_token_id).float().mean()
    assert float(empty) == pytest.approx(0.1, abs=0.03)


def test_no_caption_has_an_unknown_part(tokenizer: Any) -> None:
    for thing in ALBUM.things:
        for word in (thing.name, *thing.keywords, *STYLES, "purple background,"):
            ids = tokenizer(word, add_special_tokens=False).input_ids
            assert ids
            assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids)
            assert tokenizer.decode(ids).replace(" ", "") == word.replace(" ", "")


def test_latents_are_encoded_once_and_only_what_is_missing(tmp_path: Path) -> None:
    autoencoder = new_autoencoder(TINY).eval()
    done: list[int] = []
    encode(autoencoder, ALBUM, HELD, tmp_path, seed=0, shards=1, size=8, report=done.append)
    encode(autoencoder, ALBUM, HELD, tmp_path, seed=0, shards=1, size=8, report=done.append)
    assert done == [1]
    latents = read_latents(tmp_path, 0)
    assert latents.shape == (8, 4, 32, 32)
    assert torch.isfinite(latents).all()
    with pytest.raises(FileNotFoundError, match="encode the scenes first"):
        read_latents(tmp_path, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_scene_is_in_its_shard_however_many_are_encoded_at_once(
    tmp_path: Path, workers: int
) -> None:
    autoencoder = new_autoencoder(TINY).eval()
    # Batches of 20 end in the middle of shards of 12, and the second shard is there already.
    encode(autoencoder, ALBUM, HELD, tmp_path, seed=0, shards=2, size=12)
    (tmp_path / "0-00000.npy").unlink()
    encode(autoencoder, ALBUM, HELD, tmp_path, seed=0, shards=4, size=12, workers=workers)
    drawn = [compose(ALBUM, draw_scene(ALBUM, HELD, 0, number)) for number in range(48)]
    with torch.inference_mode():
        expected = autoencoder.encode(to_tensor(np.stack(drawn))).latent_dist.mean
    assert torch.allclose(read_latents(tmp_path, 0).float(), expected, atol=1e-2)


def test_compiling_is_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(training, "read_album", lambda _: (ALBUM, HELD))
    result = CliRunner().invoke(app, ["diffusion", "--compile", "--work", str(tmp_path)])
    assert result.exit_code == 2
    assert "--compile needs a GPU" in result.output


def test_latents_of_two_autoencoders_are_never_mixed(tmp_path: Path) -> None:
    first, second = (new_autoencoder(TINY).eval() for _ in range(2))
    encode(first, ALBUM, HELD, tmp_path, seed=0, shards=1, size=4)
    with pytest.raises(ValueError, match="encoded by another autoencoder"):
        encode(second, ALBUM, HELD, tmp_path, seed=0, shards=2, size=4)
    assert len(read_latents(tmp_path, 0)) == 4
    # What decodes may have been trained on.
    first.decoder.load_state_dict(second.decoder.state_dict())
    encode(first, ALBUM, HELD, tmp_path, seed=0, shards=2, size=4)
    assert len(read_latents(tmp_path, 0)) == 8


def test_what_is_held_out_stays_what_it_was() -> None:
    # Weights that are trained were shown all the rest: another draw would measure what they know.
    held = hold_out(ALBUM.things, STYLES, 0)
    assert held.colours == ("pink", "orange", "yellow", "red", "blue")
    assert held.styles == {3: "flat"}
    assert held.keyword_styles == ("noto", "noto", "noto", "noto", "flat")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tokenizer = train_tokenizer(ALBUM.things, TINY.vocabulary, folder / "tokenizer")
    train(autoencoding(None), SETTINGS, folder, until=2)
    train(diffusion(tokenizer), SETTINGS, folder, until=2)
    export(folder, folder / "model", TINY)
    return folder


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


class TestPrecision:
    @pytest.fixture(autouse=True)
    def own_accelerator(self) -> Iterator[None]:
        """Let accelerate take another precision: it keeps the first for the whole process."""
        AcceleratorState._reset_state(reset_partial_state=True)
        yield
        AcceleratorState._reset_state(reset_partial_state=True)

    @pytest.mark.parametrize(
        ("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)]
    )
    @pytest.mark.parametrize("task", [autoencoding, reading, diffusion])
    def test_layers_count_in_the_precision_that_was_asked_for(
        self, task: Any, precision: Precision, dtype: torch.dtype, tokenizer: Any, tmp_path: Path
    ) -> None:
        seen = set()
        pupil = task(tokenizer)
        for layer in pupil.network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.register_forward_hook(lambda _layer, _given, made: seen.add(made.dtype))
        train(pupil, replace(SETTINGS, precision=precision), tmp_path, until=1)
        assert seen == {dtype}

    @pytest.mark.parametrize("task", [autoencoding, reading, diffusion])
    def test_bfloat16_trains_what_stays_float32(
        self, task: Any, tokenizer: Any, tmp_path: Path
    ) -> None:
        train(task(tokenizer), replace(SETTINGS, precision="bf16"), tmp_path, until=2)
        state = read(tmp_path / f"{task(tokenizer).name}.pt")
        assert state is not None
        before = task(tokenizer).network.state_dict()
        for name, value in state["network"].items():
            assert value.dtype == before[name].dtype
            assert value.isfinite().all()
        assert any(not torch.equal(value, before[name]) for name, value in state["network"].items())

    def test_another_is_refused_in_one_sentence(self) -> None:
        result = CliRunner().invoke(app, ["diffusion", "--precision", "fp16"])
        assert result.exit_code == 2
        said = " ".join(result.output.replace("│", " ").split())
        assert "'fp16' is not one of 'no', 'bf16'" in said


class TestTheDecoderAlone:
    def test_goes_on_while_the_latents_stay_what_they_are(self, tmp_path: Path) -> None:
        train(autoencoding(None), SETTINGS, tmp_path, until=3)
        pictures = torch.rand(2, 3, 64, 64) * 2 - 1

        def latents_and_pictures() -> tuple[torch.Tensor, torch.Tensor]:
            network = trained(TINY, tmp_path)
            mean = network.encode(pictures).latent_dist.mean
            return mean, network.decode(mean).sample

        before = latents_and_pictures()
        settle_encoder(tmp_path)
        train(AutoencoderTask(ALBUM, TINY, 0, decoder_only=True), SETTINGS, tmp_path, until=6)
        after = latents_and_pictures()
        assert torch.equal(after[0], before[0])
        assert not torch.equal(after[1], before[1])

    def test_there_has_to_be_one(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"autoencoder\.pt"):
            settle_encoder(tmp_path)


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


def test_psnr_is_that_of_the_definition() -> None:
    class Grey(nn.Module):
        """Brings every picture back as a constant 8 grey levels away from itself."""

        device = torch.device("cpu")
        dtype = torch.float32

        def encode(self, pictures: torch.Tensor) -> Any:
            dark = torch.where(pictures > 0, pictures - 16 / 255, pictures + 16 / 255)
            return type("Encoded", (), {"latent_dist": type("Latents", (), {"mean": dark})})

        def decode(self, latents: torch.Tensor) -> Any:
            return type("Decoded", (), {"sample": latents})

    held, seen = held_out_psnr(Grey(), ALBUM, count=3)
    assert held == pytest.approx(20 * np.log10(255 / 8), abs=0.01)
    assert seen == pytest.approx(held, abs=0.01)


def test_psnr_is_measured_in_half_precision_too() -> None:
    held, seen = held_out_psnr(new_autoencoder(TINY).to(torch.bfloat16), ALBUM, count=2)
    assert 0 < held < 30
    assert 0 < seen < 30


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


def test_a_call_that_has_nothing_to_do_leaves_a_decay_as_it_is(
    tokenizer: Any, tmp_path: Path
) -> None:
    decaying = replace(SETTINGS, schedule=replace(SETTINGS.schedule, decay_from=1, decay_steps=9))
    train(diffusion(tokenizer), decaying, tmp_path, until=3)
    train(diffusion(tokenizer), SETTINGS, tmp_path, until=2)
    state = read(tmp_path / "diffusion.pt")
    assert state is not None
    assert (state["step"], state["decay_from"]) == (3, 1)


class TestDecayOfACommand:
    def rates(self, file: Path, decay: int | None) -> Schedule:
        return command_settings(file, 4, 1.0, 1, decay, "no", 10, 0).schedule

    def test_it_starts_where_the_training_is(self, tmp_path: Path) -> None:
        save({"step": 70, "decay_from": None}, tmp_path / "a.pt")
        assert self.rates(tmp_path / "a.pt", 30).last_step == 100
        assert self.rates(tmp_path / "a.pt", None).last_step is None

    def test_it_goes_on_after_an_interruption(self, tmp_path: Path) -> None:
        save({"step": 85, "decay_from": 70}, tmp_path / "a.pt")
        schedule = self.rates(tmp_path / "a.pt", 30)
        assert schedule.last_step == 100
        assert schedule.rate(85) == pytest.approx(0.5)
