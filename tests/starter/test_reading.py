from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from generation.starter import train as commands
from generation.starter.training.captions import Captioner, names_style
from generation.starter.training.diffusion import DiffusionTask
from generation.starter.training.latents import portraits, poses, read_latents
from generation.starter.training.networks import new_autoencoder
from generation.starter.training.progress import Schedule, read
from generation.starter.training.reading import ReadingTask, Sketcher, picture_codes, taught
from generation.starter.training.scenes import HeldOut, draw_scene, hold_out, plain
from generation.starter.training.trainer import Settings, train
from generation.starter.training.vocabulary import read_tokenizer, train_tokenizer

from .album import STYLES, TINY, album

ALBUM = album()
HELD = hold_out(ALBUM.things, STYLES, 0)
POSES = poses(ALBUM)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(ALBUM.things, TINY.vocabulary, folder)
    return read_tokenizer(folder)


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    torch.manual_seed(0)
    return portraits(new_autoencoder(TINY).eval(), ALBUM)


def reading(tokenizer: Any, drawn: torch.Tensor, held: HeldOut = HELD) -> ReadingTask:
    plain_latents = torch.stack(
        [
            drawn[POSES.index((scene.subjects[0].thing, scene.style))]
            for scene in (draw_scene(ALBUM, held, 0, number) for number in range(200))
        ]
    )
    return ReadingTask(ALBUM, held, plain_latents.half(), drawn, tokenizer, TINY, 0)


def test_a_plain_scene_keeps_what_a_caption_tells_and_nothing_else() -> None:
    seen: dict[Any, Any] = {}
    for number in range(400):
        scene = draw_scene(ALBUM, HELD, 0, number)
        things = tuple(subject.thing for subject in scene.subjects)
        told = (things, scene.style, scene.colour, scene.size)
        found = plain(scene)
        assert (tuple(s.thing for s in found.subjects), found.style, found.colour) == told[:3]
        assert seen.setdefault(told, found) == found
    assert len(seen) < 400


def test_portraits_are_those_of_the_pictures_in_their_order(drawn: torch.Tensor) -> None:
    assert drawn.shape == (len(ALBUM.pictures), 4, 32, 32)
    assert len(set(POSES)) == len(POSES) == len(drawn)
    assert all(not torch.equal(drawn[0], other) for other in drawn[1:])


def test_codes_tell_all_pictures_apart(drawn: torch.Tensor) -> None:
    codes = picture_codes(drawn)
    assert len(codes) == len(drawn)
    distances = torch.cdist(codes, codes) + 1e9 * torch.eye(len(codes))
    assert float(distances.min()) > 0.1


def test_a_caption_means_the_picture_that_it_names(tokenizer: Any, drawn: torch.Tensor) -> None:
    batch = reading(tokenizer, drawn).batch(0, 0, 300)
    texts = tokenizer.batch_decode(batch["ids"], skip_special_tokens=True)
    pairs = 0
    for text, meant in zip(texts, batch["meant"], strict=True):
        places = [POSES[int(place)] for place in meant.nonzero()[:, 0]]
        if not places:
            pairs += 1
            continue
        assert len({thing for thing, _ in places}) == 1
        thing = ALBUM.things[places[0][0]]
        assert any(word in text for word in (thing.name, *thing.keywords))
        named = [style for style in STYLES if names_style(text, style)]
        assert len(places) == 1 if named else len(places) >= 1
        assert not named or places[0][1] == named[0]
    assert 0 < pairs < 100


def test_nothing_is_said_of_what_is_held_out(tokenizer: Any, drawn: torch.Tensor) -> None:
    held = replace(HELD, styles={0: "flat", 2: "noto"})
    task = reading(tokenizer, drawn, held)
    batch = task.batch(0, 0, 200)
    away = [POSES.index((0, "flat")), POSES.index((2, "noto"))]
    assert not batch["meant"][:, away].any()
    sketch, logits = task.network(batch["ids"])
    logits = logits.detach().requires_grad_()
    task.loss(lambda _: (sketch, logits), batch)[0].backward()  # type: ignore[arg-type]
    assert logits.grad is not None
    assert not logits.grad[:, away].any()
    assert logits.grad.any()


def test_a_batch_of_pairs_alone_has_a_loss(tokenizer: Any, drawn: torch.Tensor) -> None:
    task = reading(tokenizer, drawn)
    batch = {**task.batch(0, 0, 4)}
    batch["meant"] = torch.zeros_like(batch["meant"])
    assert torch.isfinite(task.loss(task.network, batch)[0])


def test_a_sketch_has_every_patch_in_its_place() -> None:
    sketcher = Sketcher(8, 3, 4)
    with torch.no_grad():
        sketcher.out.weight.zero_()
        sketcher.out.bias.zero_()
        sketcher.bias.copy_(torch.arange(4 * 12).view(4, 12))
    found = sketcher(torch.zeros(1, 5, 8))
    assert found.shape == (1, 3, 4, 4)
    # A patch's numbers go channel by channel, and row by row in each.
    assert found[0, 0].tolist() == [
        [0, 1, 12, 13],
        [2, 3, 14, 15],
        [24, 25, 36, 37],
        [26, 27, 38, 39],
    ]


def test_it_learns_to_tell_the_pictures_apart_and_the_unet_begins_with_that(
    tokenizer: Any, drawn: torch.Tensor, tmp_path: Path
) -> None:
    task = reading(tokenizer, drawn)
    lines: list[dict[str, Any]] = []
    settings = Settings(32, Schedule(1e-2, warmup=5), average=0.9, log_every=1)
    train(task, settings, tmp_path, until=150, report=lines.append)
    assert lines[-1]["right"] > 0.9
    state = read(tmp_path / "reading.pt")
    assert state is not None
    denoiser = DiffusionTask(ALBUM, HELD, drawn.half(), tokenizer, TINY, 0).network
    denoiser.text_encoder.load_state_dict(taught(state))
    ids = Captioner(ALBUM, HELD, tokenizer, 0).ids(["a red ball, noto style"])
    trained = task.network.text_encoder
    trained.load_state_dict(taught(state))
    assert torch.equal(denoiser.text_encoder(ids)[0], trained(ids)[0])


def test_the_commands_teach_the_text_encoder_before_the_unet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "read_album", lambda _: (ALBUM, HELD))
    monkeypatch.setattr(commands, "Shape", lambda: TINY)
    monkeypatch.setattr(commands, "SHARD", 100)

    def run(*arguments: str) -> None:
        result = CliRunner().invoke(commands.app, [*arguments, "--work", str(tmp_path)])
        assert result.exit_code == 0, (result.output, result.exception)

    run("autoencoder", "--steps", "1", "--batch", "4")
    run("latents", "--scenes", "100")
    run("reading", "--scenes", "100", "--steps", "2", "--batch", "8")
    run("diffusion", "--steps", "0", "--batch", "4", "--samples", "0")
    assert read_latents(tmp_path / "plain", commands.SEED).shape == (100, 4, 32, 32)
    read_text, unet = read(tmp_path / "reading.pt"), read(tmp_path / "diffusion.pt")
    assert read_text is not None
    assert unet is not None
    for name, value in taught(read_text).items():
        assert torch.equal(unet["average"][f"text_encoder.{name}"], value)
