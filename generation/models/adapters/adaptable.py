"""The part of a model that LoRAs are merged into, whatever family the model belongs to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import nn


class Adaptable:
    """What `generation.models.family.Model` has for LoRAs; each family is a dataclass.

    `ADAPTABLE` holds the names of the parts that LoRAs of the family change.
    """

    ADAPTABLE: ClassVar[tuple[str, ...]]

    @property
    def adaptable(self) -> Mapping[str, nn.Module]:
        """Return the networks that a LoRA may change, by the names of their parts."""
        return {name: getattr(self, name) for name in self.ADAPTABLE}

    def adapted(self, networks: Mapping[str, nn.Module]) -> Self:
        """Return the model with other networks in place of those parts; the rest is shared."""
        model: Any = self
        changed: Self = replace(model, **networks)
        return changed

    @property
    def inversion_widths(self) -> Mapping[str, int]:
        """Return the width of a token of each text encoder that reads textual inversions."""
        return {}

    def with_inversions(self, inversions: Sequence[Mapping[str, torch.Tensor]]) -> Self:
        """Return a model whose text encoders know vectors [vectors, width] of inversions too.

        The text of an inversion is in `generation.models.text.inversions.words`.
        """
        raise NotImplementedError

    @abstractmethod
    def convert_lora(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a LoRA's tensors by the names of diffusers' layers."""
