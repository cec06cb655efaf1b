"""How the text encoder learns to write sketches, and the UNet begins to look at them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from generation.starter import train as commands
from generation.starter.training.drawings.scenes import HeldOut, draw_scene
from generation.starter.training.learning.captions import Captioner, Said
from generation.starter.training.learning.diffusion import DiffusionTask
from generation.starter.training.learning.latents import poses
from generation.starter.training.learning.looking import cross_attentions, look_at_patches
from generation.starter.training.learning.networks import (
    PATCHES,
    TOKENS,
    WORDS,
    Shape,
    new_unet,
)
from generation.starter.training.learning.progress import Schedule, read
from generation.starter.training.learning.reading import ReadingTask, taught
from generation.starter.training.learning.sketches import (
    LOUD,
    Sketches,
    sketch_at,
)
from generation.starter.training.learning.trainer import Batch, Settings, train

from .album import STYLES, TINY
from .tasks import ALBUM, HELD

NOTHING_HELD = HeldOut(("",) * len(ALBUM.things), {}, ("",) * len(ALBUM.things))
POSES = poses(ALBUM)
SKETCHED = slice(WORDS + 1, TOKENS)


def reading(tokenizer: Any, forms: torch.Tensor, held: HeldOut = HELD) -> ReadingTask:
    return ReadingTask(ALBUM, held, forms, 200, tokenizer, TINY, 0)


def said_once(batch: Batch) -> dict[str, torch.Tensor]:
    """Return `batch` without what is said by a keyword as well."""
    return {**batch, "renamed": batch["renamed"][:0], "rows_renamed": batch["rows_renamed"][:0]}


class TestReading:
    def test_a_caption_means_the_picture_that_it_names(
        self, tokenizer: Any, forms: torch.Tensor
    ) -> None:
        batch = reading(tokenizer, forms).batch(0, 0, 300)
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
            named = [style for style in STYLES if f"{style} style" in text]
            assert len(places) == 1 if named else len(places) >= 1
            assert not named or places[0][1] == named[0]
        assert 0 < pairs < 200

    def test_no_keyword_is_said_of_the_style_it_is_held_out_in(
        self, tokenizer: Any, forms: torch.Tensor
    ) -> None:
        box, sketches = 1, Sketches(ALBUM, NOTHING_HELD, forms, 256)
        held = replace(NOTHING_HELD, keyword_styles=("flat",) * len(ALBUM.things))
        batch = reading(tokenizer, forms, held).batch(0, 0, 1_500)
        texts = tokenizer.batch_decode(batch["ids"], skip_special_tokens=True)
        called = 0
        for text, meant in zip(texts, batch["meant"], strict=True):
            if re.search(r"^((a|tiny|small|little|huge|big|large) )*crate( on .*|$)", text):
                assert [POSES[int(place)] for place in meant.nonzero()[:, 0]] == [(box, "noto")]
                called += 1
        assert called > 0
        holding = Sketches(ALBUM, held, forms, 256)
        for said in (Said("", (box,)), Said("", (box, box))):
            by_keyword = replace(said, by_keyword=(box,))
            told = holding.tokens(by_keyword)
            assert told[sketch_at(0)].isfinite().all()
            assert told[sketch_at(1), sketches.components : sketches.numbers].isnan().all()
            assert torch.equal(holding.tokens(said), sketches.tokens(said))
        flat = POSES.index((box, "flat"))
        assert holding.untold(Said("", (box,), by_keyword=(box,))).nonzero().tolist() == [[flat]]
        assert not holding.untold(Said("", (box,))).any()

    def test_some_captions_go_on_for_as_long_as_a_prompt_may_and_mean_the_same(
        self, tokenizer: Any, forms: torch.Tensor
    ) -> None:
        end = tokenizer.eos_token_id
        ids = reading(tokenizer, forms).batch(0, 0, 400)["ids"]
        lengths = (ids != end).sum(1)
        # What is after the first end is nothing but ends, as in every prompt.
        first = (ids == end).int().argmax(1)
        assert torch.equal(first, lengths)
        assert ids[:, 1:].ne(tokenizer.bos_token_id).all()
        usual = reading(tokenizer, forms)
        usual._going_on = lambda ids, _: ids  # type: ignore[method-assign]
        without = (usual.batch(0, 0, 400)["ids"] != end).sum(1)
        assert 0.1 < float((lengths > without).float().mean()) < 0.2
        assert int(without.max()) < int(lengths.max()) == WORDS - 1

    def test_nothing_is_said_of_what_is_held_out(self, tokenizer: Any, forms: torch.Tensor) -> None:
        held = replace(HELD, styles={0: "flat", 2: "noto"})
        task = reading(tokenizer, forms, held)
        batch = said_once(task.batch(0, 0, 200))
        away = [POSES.index((0, "flat")), POSES.index((2, "noto"))]
        assert not batch["meant"][:, away].any()
        tokens, logits = (found.detach().requires_grad_() for found in task.network(batch["ids"]))
        task.loss(lambda _: (tokens, logits), batch)[0].backward()  # type: ignore[arg-type]
        assert logits.grad is not None
        assert not logits.grad[:, away].any()
        assert logits.grad.any()
        untold = batch["tokens"].isnan()
        assert untold.any()
        assert tokens.grad is not None
        assert not tokens.grad[untold].any()
        assert tokens.grad[~untold].any()

    def test_more_of_its_captions_than_of_the_pictures_are_of_two_things(
        self, tokenizer: Any, forms: torch.Tensor
    ) -> None:
        pairs = ~reading(tokenizer, forms).batch(0, 0, 400)["meant"].any(1)
        assert 0.25 < float(pairs.float().mean()) < 0.5

    def test_a_keyword_is_to_say_what_its_name_says_in_any_style(
        self, tokenizer: Any, forms: torch.Tensor
    ) -> None:
        held = replace(NOTHING_HELD, keyword_styles=("flat",) * len(ALBUM.things))
        task = reading(tokenizer, forms, held)
        batch = task.batch(0, 0, 600)
        texts = tokenizer.batch_decode(batch["ids"], skip_special_tokens=True)
        again = tokenizer.batch_decode(batch["renamed"], skip_special_tokens=True)
        rows = batch["rows_renamed"].tolist()
        assert len(rows) == len(again) > 60
        assert any("flat style" in text for text in again)
        for row, renamed in zip(rows, again, strict=True):
            [thing] = [it for it in ALBUM.things if it.name in texts[row]]
            [keyword] = [word for word in thing.keywords if word in renamed]
            # Some go on with words that mean nothing.
            assert texts[row].startswith(renamed.replace(keyword, thing.name))
        tokens, logits = task.network(torch.cat([batch["ids"], batch["renamed"]]))
        said = tokens.detach().requires_grad_()
        loss, terms = task.loss(lambda _: (said, logits), batch)  # type: ignore[arg-type]
        loss.backward()
        count = len(texts)
        assert said.grad is not None
        # It is the keyword that is to move to the name, not the other way about.
        moved = (said - 1e3 * said.grad)[count:].detach()
        meant = said[rows].detach()
        assert (moved - meant).square().mean() < (said[count:].detach() - meant).square().mean()
        assert float(terms["renaming"].detach()) > 0.0
        same = torch.cat([said[:count], said[rows]]).detach()
        _, right = task.loss(lambda _: (same, logits), batch)  # type: ignore[arg-type]
        assert float(right["renaming"].detach()) == 0.0

    def test_a_batch_of_pairs_alone_has_a_loss(self, tokenizer: Any, forms: torch.Tensor) -> None:
        task = reading(tokenizer, forms)
        batch = said_once(task.batch(0, 0, 4))
        batch["meant"] = torch.zeros_like(batch["meant"])
        assert torch.isfinite(task.loss(task.network, batch)[0])

    def test_all_is_explained_when_the_tokens_are_right(
        self, tokenizer: Any, forms: torch.Tensor
    ) -> None:
        task = reading(tokenizer, forms)
        batch = said_once(task.batch(0, 0, 30))
        told = batch["tokens"].nan_to_num()
        _, logits = task.network(batch["ids"])
        _, right = task.loss(lambda _: (told, logits), batch)  # type: ignore[arg-type]
        assert float(right["explained"]) == 1.0
        assert float(right["sketching"]) == 0.0
        mean = batch["tokens"].nanmean(0, keepdim=True).expand_as(told)
        _, blank = task.loss(lambda _: (mean, logits), batch)  # type: ignore[arg-type]
        assert float(blank["explained"]) == pytest.approx(0.0, abs=0.05)


@given(numbers=st.lists(st.integers(0, 10_000), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_no_caption_reaches_into_its_sketch(tokenizer: Any, numbers: list[int], seed: int) -> None:
    captions = Captioner(ALBUM, HELD, tokenizer, seed)
    texts = [f"{draw_scene(ALBUM, HELD, seed, number)!s} and so on" for number in numbers]
    ids = captions.ids(texts)
    assert ids.shape == (len(texts), TOKENS)
    # At the last of the words is the end at the latest, and nothing but ends from there on.
    assert (ids[:, WORDS - 1 :] == tokenizer.eos_token_id).all()


def test_no_caption_is_cut_where_a_shorter_one_says_it(tokenizer: Any) -> None:
    long = replace(ALBUM.things[0], name="a " * 8 + "ball", keywords=())
    album = replace(ALBUM, things=(long,) * len(ALBUM.things))
    captions = Captioner(album, NOTHING_HELD, tokenizer, 0)
    said = captions.describe(range(300), np.random.default_rng(0))
    lengths = [len(tokenizer(each.text).input_ids) for each in said]
    pairs = [len(each.things) == 2 for each in said]
    assert any(pairs)
    assert max(lengths) <= WORDS
    assert any(each.style for each in said)


class TestLooking:
    def test_heads_look_at_the_patch_where_they_are(self) -> None:
        torch.manual_seed(0)
        unet = new_unet(replace(Shape(), text=32))
        noisy = torch.randn(128, 8, 16, 16)
        timesteps = torch.randint(0, 1_000, (128,))
        worth = look_at_patches(unet, noisy, timesteps, slice(8, 24), LOUD)
        assert worth.keys() == cross_attentions(unet).keys()
        assert all(0 < share < 1 for share in worth.values())
        tokens = torch.zeros(TOKENS, 32)
        tokens[SKETCHED, 8:24] = LOUD * torch.eye(PATCHES).repeat(len(STYLES), 1)
        seen: list[torch.Tensor] = []
        name, layer = next((n, a) for n, a in cross_attentions(unet).items() if "up_blocks.0" in n)
        layer.to_q.register_forward_hook(lambda *hooked: seen.append(hooked[2]))
        with torch.no_grad():
            unet(torch.randn(16, 8, 16, 16), torch.full((16,), 800), tokens.expand(16, -1, -1))
        size = len(layer.to_q.weight) // layer.heads
        queries, keys = seen[0][..., :size], tokens @ layer.to_k.weight[:size].T
        looks = (queries @ keys.T * size**-0.5).softmax(-1)
        # 4x4 positions, each with its patch: it is the one looked at most, in either sketch.
        for place in range(len(STYLES)):
            most = looks[..., sketch_at(place)].argmax(-1)
            assert float((most == torch.arange(PATCHES)).float().mean()) > 0.8, name

    def test_heads_that_are_free_stay_as_they_were(self) -> None:
        unet = new_unet(TINY)
        layers = cross_attentions(unet)
        before = {name: layer.to_q.weight.detach().clone() for name, layer in layers.items()}
        look_at_patches(unet, torch.randn(8, 4, 8, 8), torch.full((8,), 900), slice(0, 16), LOUD)
        for name, layer in layers.items():
            half = len(before[name]) // 2
            assert torch.equal(layer.to_q.weight[half:], before[name][half:])
            assert not torch.equal(layer.to_q.weight[:half], before[name][:half])


@pytest.mark.rare
def test_it_learns_to_tell_the_pictures_apart_and_the_unet_begins_with_that(
    tokenizer: Any, forms: torch.Tensor, tmp_path: Path
) -> None:
    task = reading(tokenizer, forms)
    lines: list[dict[str, Any]] = []
    settings = Settings(32, Schedule(1e-2, warmup=5), average=0.9, log_every=1)
    train(task, settings, tmp_path, until=220, report=lines.append)
    assert lines[-1]["right"] > 0.9
    assert lines[-1]["explained"] > 0.1 > lines[0]["explained"]
    state = read(tmp_path / "reading.pt")
    assert state is not None
    latents = torch.randn(60, 4, 8, 8).half()
    pupil = DiffusionTask(ALBUM, HELD, latents, tokenizer, TINY, 0)
    pupil.begin_with(state)
    encoder, head = taught(state)
    task.network.text_encoder.load_state_dict(encoder)
    ids = Captioner(ALBUM, HELD, tokenizer, 0).ids(["a red ball, noto style"])
    states = pupil.network.text_encoder(ids)[0]
    assert torch.equal(states, task.network.text_encoder(ids)[0])
    # The keys of heads that look are those of the tokens, and so the numbers of patches.
    layer = next(iter(cross_attentions(pupil.network.unet).values()))
    numbers = state["facts"]["numbers"]
    keys = states @ layer.to_k.weight[:PATCHES].T
    expected = (states @ head.T)[..., numbers : numbers + PATCHES]
    assert torch.allclose(keys, expected, atol=1e-4)


def test_the_text_encoder_stays_as_it_was_taught(tokenizer: Any, tmp_path: Path) -> None:
    pupil = DiffusionTask(ALBUM, HELD, torch.randn(60, 4, 8, 8).half(), tokenizer, TINY, 0)
    before = {k: v.clone() for k, v in pupil.network.state_dict().items()}
    train(pupil, Settings(4, Schedule(1e-2, warmup=1)), tmp_path, until=3)
    state = read(tmp_path / "diffusion.pt")
    assert state is not None
    for name, value in before.items():
        same = torch.equal(value, state["network"][name])
        assert same if name.startswith("text_encoder.") else True
    assert not torch.equal(before["unet.conv_in.weight"], state["network"]["unet.conv_in.weight"])


@pytest.mark.rare
def test_the_commands_teach_the_text_encoder_before_the_unet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "read_album", lambda _: (ALBUM, HELD))
    monkeypatch.setattr(commands, "Shape", lambda: TINY)
    monkeypatch.setattr(commands, "SHARD", 100)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(commands.app, [*arguments, "--work", str(tmp_path)])

    def run(*arguments: str) -> None:
        result = call(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)

    run("autoencoder", "--steps", "1", "--batch", "4")
    run("latents", "--scenes", "100")
    early = call("diffusion", "--steps", "0")
    assert early.exit_code == 2
    assert "train the text encoder first" in re.sub(r"[\s│]+", " ", early.output)
    run("reading", "--scenes", "100", "--steps", "2", "--batch", "8")
    drawn = (tmp_path / "forms.pt").stat().st_mtime_ns
    run("reading", "--scenes", "100", "--steps", "3", "--batch", "8")
    assert (tmp_path / "forms.pt").stat().st_mtime_ns == drawn
    run("diffusion", "--steps", "0", "--batch", "4", "--samples", "0")
    read_text, unet = read(tmp_path / "reading.pt"), read(tmp_path / "diffusion.pt")
    assert read_text is not None
    assert unet is not None
    for name, value in taught(read_text)[0].items():
        assert torch.equal(unet["average"][f"text_encoder.{name}"], value)
