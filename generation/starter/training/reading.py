"""Teaching the text encoder what its words look like, before there is a UNet.

The UNet learns from 60 pictures a second on two cores, the text encoder alone from a thousand
captions. Without this the UNet has to find out by itself which words are different things: after
598,000 pictures 15 of 100 of its own were nearest to what was asked for. Of sketches of all names,
taken up from that text encoder, 56 % were after another 1.5 million captions, in half an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from .captions import Captioner, names_style
from .drawing import Album
from .latents import poses
from .networks import Shape, new_text_encoder
from .scenes import HeldOut
from .trainer import Batch

# What telling apart weighs beside sketching: the one is learnt in minutes, the other is not.
_TELLING_APART: Final = 0.1
_COMPONENTS: Final = 256
_HEADS: Final = 8
_KEYS: Final = 20
_VALUES: Final = 40
_TEMPERATURE: Final = 2.3
_QUERIES: Final = 0.5


class Sketcher(nn.Module):
    """Latents from the states of tokens: each patch looks at the tokens, and paints itself.

    As a UNet's cross attention does where there is nothing but noise to see.
    """

    def __init__(self, width: int, channels: int, side: int) -> None:
        super().__init__()
        # A patch is two latents wide.
        self._side, self._channels = side // 2, channels
        patches = self._side**2
        self.queries = nn.Parameter(torch.randn(_HEADS, patches, _KEYS) * _QUERIES)
        self.keys = nn.Linear(width, _HEADS * _KEYS)
        self.values = nn.Linear(width, _HEADS * _VALUES)
        self.out = nn.Linear(_HEADS * _VALUES, 4 * channels)
        self.bias = nn.Parameter(torch.zeros(patches, 4 * channels))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return latents [n, c, h, w] for states [n, tokens, width]."""
        count, tokens, _ = states.shape
        keys = self.keys(states).view(count, tokens, _HEADS, _KEYS).permute(0, 2, 3, 1)
        values = self.values(states).view(count, tokens, _HEADS, _VALUES).transpose(1, 2)
        looks = (self.queries @ keys * _KEYS**-0.5).softmax(-1)
        patches = self.out((looks @ values).transpose(1, 2).flatten(2)) + self.bias
        grid = patches.view(count, self._side, self._side, self._channels, 2, 2)
        sketch: torch.Tensor = grid.permute(0, 3, 1, 4, 2, 5)
        return sketch.reshape(count, self._channels, 2 * self._side, 2 * self._side)


class Reader(nn.Module):
    """The text encoder with what judges it: a sketch, and which of all pictures is meant."""

    def __init__(self, text_encoder: Any, codes: torch.Tensor, channels: int, side: int) -> None:
        super().__init__()
        width = text_encoder.config.hidden_size
        self._end = text_encoder.config.eos_token_id
        self.text_encoder = text_encoder
        self.sketcher = Sketcher(width, channels, side)
        self.text_projection = nn.Linear(width, width, bias=False)
        self.picture_projection = nn.Linear(codes.shape[1], width, bias=False)
        self.temperature = nn.Parameter(torch.tensor(_TEMPERATURE))
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sketch [n, c, h, w] and logits [n, pictures] for token ids [n, tokens].

        The logits are CLIP's: cosines of the state at the first end token with each picture,
        times a factor that is learnt (Radford et al. 2021, https://arxiv.org/abs/2103.00020).
        """
        states = self.text_encoder(ids)[0]
        first = (ids == self._end).int().argmax(1)
        ends = states[torch.arange(len(ids), device=ids.device), first]
        texts = normalize(self.text_projection(ends).float(), dim=1)
        pictures = normalize(self.picture_projection(self.codes).float(), dim=1)
        sketch: torch.Tensor = self.sketcher(states).float()
        return sketch, self.temperature.exp() * texts @ pictures.T


def picture_codes(portraits: torch.Tensor) -> torch.Tensor:
    """Return the principal components [pictures, k] of latents [pictures, c, h, w].

    Each is scaled by the root of its spread, halfway to whitening, so that fine differences
    count beside size and colour; k is at most 256.
    """
    flat = portraits.flatten(1).float()
    left, spreads, _ = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    codes = left[:, :_COMPONENTS] * spreads[:_COMPONENTS].sqrt()
    scaled: torch.Tensor = codes / codes.std()
    return scaled


class ReadingTask:
    """Training of a text encoder on captions of the scenes of `album`, from number 0 on.

    `plain` [scenes, c, h, w] are the latents of the scenes without what chance adds to them,
    `portraits` [pictures, c, h, w] those of the album's pictures, in the order of `poses`.
    """

    name = "reading"

    def __init__(
        self,
        album: Album,
        held: HeldOut,
        plain: torch.Tensor,
        portraits: torch.Tensor,
        tokenizer: Any,
        shape: Shape,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        encoder = new_text_encoder(shape, tokenizer)
        _, channels, side, _ = plain.shape
        self.network = Reader(encoder, picture_codes(portraits), channels, side)
        self._captions = Captioner(album, held, tokenizer, seed)
        self._plain, self._shape, self._seed = plain, shape, seed
        self._scale = 1 / float(plain.float().std())
        known = poses(album)
        self._places = {pose: place for place, pose in enumerate(known)}
        self._things = torch.tensor([thing for thing, _ in known])
        # Of what is held out nothing may be said, not even that it is not what is meant.
        self._held = torch.tensor([held.styles.get(thing) == style for thing, style in known])

    def batch(self, step: int, rank: int, count: int) -> Batch:
        """Return captions, their plain latents, and which pictures each may mean."""
        random = np.random.default_rng([self._seed, 4, step, rank])
        numbers = [int(number) for number in random.integers(len(self._plain), size=count)]
        texts = self._captions.texts(numbers, random)
        return {
            "plain": self._plain[numbers].float() * self._scale,
            "ids": self._captions.ids(texts),
            "meant": torch.stack([self._meant(*pair) for pair in zip(numbers, texts, strict=True)]),
        }

    def _meant(self, number: int, text: str) -> torch.Tensor:
        """Return which pictures `text` may mean: of two things side by side, none alone."""
        scene = self._captions.scene(number)
        meant = torch.zeros(len(self._things), dtype=torch.bool)
        if len(scene.subjects) == 1:
            thing = scene.subjects[0].thing
            if names_style(text, scene.style):
                meant[self._places[thing, scene.style]] = True
            else:
                meant = (self._things == thing) & ~self._held
        return meant

    def loss(
        self, network: nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Return the sketch's squared error and a little of the cross entropy of what is meant."""
        sketch, logits = network(batch["ids"])
        squared = (sketch - batch["plain"]).square().mean()
        single = batch["meant"].any(1)
        known = logits.masked_fill(self._held.to(logits.device), -torch.inf).log_softmax(1)
        meant = known[single].masked_fill(~batch["meant"][single], -torch.inf).logsumexp(1)
        # Over all rows, or a batch that has only pairs would have no mean.
        entropy = -meant.sum() / len(known)
        right = batch["meant"].gather(1, known.argmax(1, keepdim=True)).float().sum()
        return squared + _TELLING_APART * entropy, {
            "squared": squared,
            "entropy": entropy,
            "right": right / single.sum().clamp(min=1),
        }

    def facts(self) -> Mapping[str, Any]:
        """Return how the networks are shaped."""
        return {"shape": asdict(self._shape), "scenes": len(self._plain)}


def taught(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the averaged weights of the text encoder in a checkpoint of `ReadingTask`."""
    prefix = "text_encoder."
    return {
        name.removeprefix(prefix): value
        for name, value in state["average"].items()
        if name.startswith(prefix)
    }
