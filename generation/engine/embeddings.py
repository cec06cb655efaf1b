"""CLIP's view of prompts: encoded together, and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from ..models.stable_diffusion import Components
from ..timing import Sizes
from ..values.request import Told
from .calibration import Bounds, measure
from .tokens import TokenizedPrompt, tokenize

# At Stable Diffusion's size an embedding takes 118 KB in float16.
_REMEMBERED: Final = 512
_LADDER: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """CLIP's last hidden states for a text, [1, tokens, width], and what of it was not read."""

    hidden: torch.Tensor
    unread: str


class TextEmbedder:
    """Embeds texts by the model's text encoder; the latest ones are not computed again.

    With `exact` an embedding is the same to the last bit whatever is embedded beside it.
    Without `shared` nothing is: each text is embedded alone.
    """

    def __init__(self, parts: Components, *, exact: bool, shared: bool) -> None:
        self._parts = parts
        self._known: OrderedDict[Told, Embedding] = OrderedDict()
        probe = torch.arange(parts.profile.token_limit).remainder(parts.tokenizer.vocab_size)
        ids = tuple(probe.tolist())
        self._sizes: Sizes = measure(
            lambda rows: self._encode([ids] * rows),
            Bounds(base=1, ladder=_LADDER if shared else (), exact=exact),
            parts.device,
        )

    def embed(self, texts: Iterable[Told]) -> dict[Told, Embedding]:
        """Return the embedding of each text."""
        wanted = dict.fromkeys(texts)
        found = {text: self._known[text] for text in wanted if text in self._known}
        new = [text for text in wanted if text not in found]
        prompts = [self._tokenize(text) for text in new]
        hidden = self._encode_all([prompt.ids for prompt in prompts])
        for text, prompt, states in zip(new, prompts, hidden, strict=True):
            found[text] = Embedding(states, prompt.unread)
        for text in wanted:
            self._known[text] = found[text]
            self._known.move_to_end(text)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _tokenize(self, told: Told) -> TokenizedPrompt:
        profile = self._parts.profile
        return tokenize(
            self._parts.tokenizer,
            told.text,
            profile.token_limit,
            profile.prompt_limit,
            keeps_unknown=told.keeps_unknown,
        )

    def _encode_all(self, prompts: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        """Return the hidden states of each prompt, from calls of the measured sizes."""
        waiting, states = list(prompts), list[torch.Tensor]()
        for size in self._sizes.split(len(waiting)):
            group, waiting = waiting[:size], waiting[size:]
            filled = [*group, *[group[-1]] * (size - len(group))]
            hidden = self._encode(filled)
            states += [hidden[row : row + 1].clone() for row in range(len(group))]
        return states

    def _encode(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Return the last hidden states, [prompts, tokens, width]."""
        ids = torch.tensor(prompts, device=self._parts.device)
        hidden: torch.Tensor = self._parts.text_encoder(ids)[0]
        return hidden.to(self._parts.dtype)
