"""What the trainings learn from: noisy latents, captions, encoded scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from generation.starter import train as training
from generation.starter.train import app
from generation.starter.training.drawings.scenes import compose, draw_scene, hold_out
from generation.starter.training.learning.autoencoder import (
    held_out_psnr,
    to_tensor,
)
from generation.starter.training.learning.latents import encode, read_latents
from generation.starter.training.learning.networks import (
    new_autoencoder,
    noise_schedule,
)

from .album import STYLES, TINY
from .tasks import ALBUM, HELD, diffusion, scaled_latents


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
