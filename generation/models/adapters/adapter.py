"""What a LoRA file changes: for each layer of a network the tensors of its change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from .layouts import DOWN


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The change of one layer.

    `tensors` have peft's names: `lora_A` [rank, in] and `lora_B` [out, rank] of a LoRA, with
    `lora_magnitude_vector` [out] of a DoRA (https://arxiv.org/abs/2402.09353); `hada_w1_a` and
    others of a LoHa (https://arxiv.org/abs/2108.06098); `lokr_w1` and others of a LoKr. `alpha`
    divided by the rank is the scale.
    """

    tensors: Mapping[str, torch.Tensor]
    alpha: float | None = None

    @property
    def kind(self) -> str:
        """Return `lora`, `loha` or `lokr`."""
        names = self.tensors
        return "lora" if DOWN in names else "loha" if "hada_w1_a" in names else "lokr"

    @property
    def scale(self) -> float:
        """Return by what the product of the tensors is multiplied: alpha / rank, or 1."""
        rank = self._rank
        return 1.0 if self.alpha is None or rank is None else self.alpha / rank

    @property
    def _rank(self) -> int | None:
        """Return the rank; None where both factors of a LoKr are whole, which knows no scale."""
        first = {"lora": (DOWN,), "loha": ("hada_w1_b",), "lokr": ("lokr_w2_b", "lokr_w1_b")}
        found = next((self.tensors[n] for n in first[self.kind] if n in self.tensors), None)
        return None if found is None else int(found.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What one file changes: by part of the model, and in it by layer."""

    parts: Mapping[str, Mapping[str, Change]]

    def changes(self) -> Iterator[tuple[str, str, Change]]:
        """Yield each change with its part and its layer."""
        for part, layers in self.parts.items():
            for layer, change in layers.items():
                yield part, layer, change
