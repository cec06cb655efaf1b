"""Trains the text encoder before the UNet, to sketch what a caption means.

On two cores the UNet learns from a few dozen pictures a second, and it learns names only through
noise. Here the text encoder alone learns to output a sketch for a caption (see `sketches.py`).
After 160,000 captions, in 12 minutes on one core, 95 % of the sketches of one thing were nearest to
its own picture. A UNet that had to find out by itself which words are different things reached 15 %
with 598,000 pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ..drawings.drawing import Album
from ..drawings.scenes import HeldOut
from .captions import Captioner, Said
from .latents import poses
from .networks import WORDS, Shape, new_text_encoder
from .sketches import Sketches, pointed
from .trainer import Batch

# The weight of telling pictures apart. It is learnt in minutes, and then helps the sketches.
_TELLING_APART: Final = 0.02
# Tokens of words only have to be harmless. Marks are few, and decide the whole picture.
_OF_WORDS: Final = 0.1
_OF_MARKS: Final = 2.0
# The share of captions that end with words without meaning, as prompts do.
_GOING_ON: Final = 0.15
# The share of captions that are repeated with a keyword. The dictionary says that a bunny is a
# rabbit, so both must give the same sketch, even in the style in which no picture was called a
# bunny. This needs no picture.
_RENAMED: Final = 0.5
# There are a thousand times as many pairs as things, and the caption of a pair needs no picture.
_PAIRS: Final = 0.4
_COMPONENTS: Final = 256
_TEMPERATURE: Final = 2.3


class Reader(nn.Module):
    """The text encoder, with the maps from its states to tokens and to the meant picture."""

    def __init__(self, text_encoder: Any, codes: torch.Tensor) -> None:
        super().__init__()
        width = text_encoder.config.hidden_size
        self._end = text_encoder.config.eos_token_id
        self.text_encoder = text_encoder
        self.head = nn.Linear(width, width, bias=False)
        self.text_projection = nn.Linear(width, width, bias=False)
        self.picture_projection = nn.Linear(codes.shape[1], width, bias=False)
        self.temperature = nn.Parameter(torch.tensor(_TEMPERATURE))
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens [n, tokens, width] and logits [n, pictures] for token ids [n, tokens].

        The logits are CLIP's: cosines of the state at the first end token with each picture,
        times a factor that is learnt (Radford et al. 2021, https://arxiv.org/abs/2103.00020).
        """
        states = self.text_encoder(ids)[0]
        first = (ids == self._end).int().argmax(1)
        ends = states[torch.arange(len(ids), device=ids.device), first]
        texts = normalize(self.text_projection(ends).float(), dim=1)
        pictures = normalize(self.picture_projection(self.codes).float(), dim=1)
        tokens: torch.Tensor = self.head(states).float()
        return tokens, self.temperature.exp() * texts @ pictures.T


def picture_codes(sketches: torch.Tensor) -> torch.Tensor:
    """Return the principal components [pictures, k] of sketches [pictures, n], k at most 256.

    Each is divided by the square root of its standard deviation, halfway to whitening.
    """
    left, spreads, _ = torch.linalg.svd(sketches - sketches.mean(0), full_matrices=False)
    codes = pointed(left[:, :_COMPONENTS]) * spreads[:_COMPONENTS].sqrt()
    scaled: torch.Tensor = codes / codes.std()
    return scaled


class ReadingTask:
    """Trains a text encoder on captions of the scenes of `album`, from number 0 on.

    `forms` are the latents of the album's pictures from `draw_forms`.
    """

    name = "reading"

    def __init__(
        self,
        album: Album,
        held: HeldOut,
        forms: torch.Tensor,
        scenes: int,
        tokenizer: Any,
        shape: Shape,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self._sketches = Sketches(album, held, forms, shape.text)
        codes = picture_codes(self._sketches.codes[:, 0].flatten(1))
        self.network = Reader(new_text_encoder(shape, tokenizer), codes)
        self._captions = Captioner(album, held, tokenizer, seed)
        self._end = tokenizer.eos_token_id
        self._words = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        self._scenes, self._shape, self._seed = scenes, shape, seed
        self._pictures = len(poses(album))

    def batch(self, step: int, rank: int, count: int) -> Batch:
        """Return captions, their target tokens, and which pictures each caption may mean."""
        random = np.random.default_rng([self._seed, 4, step, rank])
        numbers = self._captions.draw(self._scenes, random, count, pairs=_PAIRS)
        captions = self._captions.describe(numbers, random)
        ids = self._captions.ids([said.text for said in captions])
        renamed = {
            row: again.text
            for row, said in enumerate(captions)
            if random.random() < _RENAMED and (again := self._captions.renamed(said, random))
        }
        return {
            "ids": self._going_on(ids, random),
            "renamed": self._captions.ids(list(renamed.values())),
            "rows_renamed": torch.tensor(list(renamed), dtype=torch.long),
            # This is by far the largest part of a batch, and is sent between processes.
            "tokens": torch.stack([self._sketches.tokens(said) for said in captions]).half(),
            "meant": torch.stack([self._meant(said) for said in captions]),
            # Held-out pictures must not be used, not even as wrong answers.
            "untold": torch.stack([self._sketches.untold(said) for said in captions]),
        }

    def _going_on(self, ids: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Return token ids [n, tokens], with random words after some of the captions.

        The first `WORDS` tokens still include an end token, as in every prompt.
        """
        for row in ids:
            start = int((row == self._end).int().argmax())
            if random.random() >= _GOING_ON or start == WORDS - 1:
                continue
            end = int(random.integers(start + 1, WORDS))
            row[start:end] = torch.from_numpy(random.choice(self._words, end - start))
        return ids

    def _meant(self, said: Said) -> torch.Tensor:
        """Return the picture that each caption means; none for a caption of two things."""
        meant = torch.zeros(self._pictures, dtype=torch.bool)
        if len(said.things) == 1:
            [thing] = said.things
            styles = self._sketches.allowed(said, thing) if said.style is None else [said.style]
            for style in styles:
                meant[self._sketches.place(said, thing, style)] = True
        return meant

    def loss(
        self, network: nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Return the tokens' squared error plus a little cross entropy of the meant picture.

        The loss also has the distance between a caption with a keyword and the same caption with
        the name. `explained` is the share of the sketches' variance that the tokens explain.
        """
        count = len(batch["ids"])
        tokens, logits = network(torch.cat([batch["ids"], batch["renamed"]]))
        tokens, renamed, logits = tokens[:count], tokens[count:], logits[:count]
        # Held-out targets are NaN, and have no error.
        wanted = torch.where(batch["tokens"].isnan(), tokens.detach(), batch["tokens"])
        squared = (tokens - wanted).square()
        missed = squared[:, WORDS + 1 :, : self._sketches.numbers].mean()
        spread = wanted[:, WORDS + 1 :, : self._sketches.numbers].var(0).mean()
        sketching = _weighted(squared).mean()
        meaning = tokens.detach()[batch["rows_renamed"]]
        # The mean is over all rows, since there may be no row with a keyword.
        renaming = _weighted((renamed - meaning).square()).sum() / count
        single = batch["meant"].any(1)
        known = logits.masked_fill(batch["untold"], -torch.inf).log_softmax(1)
        meant = known[single].masked_fill(~batch["meant"][single], -torch.inf).logsumexp(1)
        # The mean is over all rows, since a batch may have only pairs.
        entropy = -meant.sum() / len(known)
        right = batch["meant"].gather(1, known.argmax(1, keepdim=True)).float().sum()
        return sketching + renaming + _TELLING_APART * entropy, {
            "sketching": sketching,
            "renaming": renaming,
            "explained": 1 - missed / spread,
            "entropy": entropy,
            "right": right / single.sum().clamp(min=1),
        }

    def facts(self) -> Mapping[str, Any]:
        """Return the shape of the networks, and where a token holds the number of a patch."""
        return {
            "shape": asdict(self._shape),
            "scenes": self._scenes,
            "numbers": self._sketches.numbers,
        }


def _weighted(squared: torch.Tensor) -> torch.Tensor:
    """Return means [n] of squared errors [n, tokens, width], with weights for words and marks."""
    errors = squared.mean(2)
    errors[:, :WORDS] *= _OF_WORDS
    errors[:, WORDS] *= _OF_MARKS
    return errors.mean(1)


def taught(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the averaged weights of a checkpoint of `ReadingTask`: text encoder and head."""
    prefix = "text_encoder."
    encoder = {
        name.removeprefix(prefix): value
        for name, value in state["average"].items()
        if name.startswith(prefix)
    }
    return encoder, state["average"]["head.weight"]
