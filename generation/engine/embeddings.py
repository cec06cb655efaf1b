"""What the network is told of texts: encoded together, and cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from ..models.family import Conditioning, Model
from ..timing import Sizes
from ..values.request import Told
from .adaptation import Adaptation, AdaptedModels
from .calibration import Bounds, measure

# In half precision an embedding of Stable Diffusion takes 118 KB, and one of FLUX.2 klein 8 MB.
_CACHED: Final = 512
_CACHED_BYTES: Final = 256 * 2**20
_LADDER: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What the network is told of a text, and the part of the text that the model did not read."""

    conditioning: Conditioning
    unread: str


class TextEmbedder:
    """Embeds texts with the model's text encoder, and caches the embeddings of the latest texts.

    With `exact` an embedding is the same to the last bit whatever is embedded beside it.
    Without `shared` each text is embedded alone, and so is a text that has another number of tokens
    than the one that was measured. `sizes` are those that were measured of the same model before.
    """

    def __init__(
        self, adapted: AdaptedModels, *, exact: bool, shared: bool, sizes: Sizes | None = None
    ) -> None:
        self._adapted = adapted
        self._cache: OrderedDict[tuple[Told, Hashable], Embedding] = OrderedDict()
        model = adapted.model(None)
        tokens = model.sample_tokens()
        self._measured = len(tokens)
        self.sizes = sizes or measure(
            lambda rows: torch.cat([row.flat() for row in model.encode([tokens] * rows)]),
            Bounds(base=1, ladder=_LADDER if shared else (), exact=exact),
            model.device,
        )

    def embed(
        self, texts: Iterable[Told], adaptation: Adaptation | None = None
    ) -> dict[Told, Embedding]:
        """Return the embedding of each text, by text encoders with the LoRAs of `adaptation`."""
        key = None if adaptation is None else adaptation.text_key
        wanted = dict.fromkeys(texts)
        found = {text: self._cache[text, key] for text in wanted if (text, key) in self._cache}
        new = [text for text in wanted if text not in found]
        if new:
            found |= zip(new, self._embed(new, adaptation), strict=True)
        for text in wanted:
            self._cache[text, key] = found[text]
            self._cache.move_to_end((text, key))
        self._forget()
        return found

    def _embed(self, texts: Sequence[Told], adaptation: Adaptation | None) -> Iterator[Embedding]:
        """Yield the embedding of each text."""
        model = self._adapted.text_model(adaptation)
        if adaptation is None:
            prompts = [model.tokenize(text) for text in texts]
        else:
            written = [replace(text, text=adaptation.written(text.text)) for text in texts]
            read = [model.tokenize(text) for text in written]
            prompts = [replace(each, unread=adaptation.unwritten(each.unread)) for each in read]
        encoded = self._encode(model, [prompt.ids for prompt in prompts])
        for prompt, conditioning in zip(prompts, encoded, strict=True):
            yield Embedding(conditioning, prompt.unread)

    def _forget(self) -> None:
        """Drop the embeddings that were not asked for the longest, until the others fit."""
        held = sum(embedding.conditioning.nbytes for embedding in self._cache.values())
        while len(self._cache) > _CACHED or held > _CACHED_BYTES:
            _, oldest = self._cache.popitem(last=False)
            held -= oldest.conditioning.nbytes

    def _encode(self, model: Model, prompts: Sequence[tuple[int, ...]]) -> list[Conditioning]:
        """Return the conditioning of each prompt, from calls of the measured sizes."""
        encoded: dict[tuple[int, ...], Conditioning] = {}
        waiting = [prompt for prompt in prompts if len(prompt) == self._measured]
        for size in self.sizes.split(len(waiting)):
            group, waiting = waiting[:size], waiting[size:]
            rows = model.encode([*group, *[group[-1]] * (size - len(group))])
            encoded |= zip(group, rows, strict=False)
        for prompt in prompts:
            if prompt not in encoded:
                [encoded[prompt]] = model.encode([prompt])
        return [encoded[prompt] for prompt in prompts]
