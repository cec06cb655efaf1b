"""The training loop, which each of the three trainings goes through."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from typer.testing import CliRunner

from generation.starter.train import _settings as command_settings
from generation.starter.train import app
from generation.starter.training.learning.autoencoder import (
    AutoencoderTask,
    settle_encoder,
    trained,
)
from generation.starter.training.learning.progress import (
    Average,
    Schedule,
    read,
    save,
)
from generation.starter.training.learning.trainer import Precision, Settings, _Steps, train

from .album import TINY
from .tasks import ALBUM, SETTINGS, autoencoding, diffusion, reading


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
