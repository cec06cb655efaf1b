"""A model with LoRAs merged in: which there are, and which of them stay in memory.

The merged layers of a combination are copies; everything else is shared with the model. So a change
from one combination to another costs nothing while both are in memory. A combination that had to
leave is merged again when the next step needs it, from the same numbers to the same bits.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import nn

from ..catalog.loras import LoraLibrary
from ..errors import LoraError, OutOfMemory
from ..models.adapters.adapter import Adapter, Change
from ..models.adapters.grafting import with_layers
from ..models.adapters.merging import merge
from ..models.adapters.reading import read_adapter
from ..models.family import Model
from ..models.networks.deterministic import is_weighted, with_weight
from ..values.lora import Lora
from ..values.recipe import UsedLora
from .memory import attempt, release

log = logging.getLogger(__name__)

_MERGED_MOST: Final = 16
# The merged layers of all combinations take at most as much memory as the networks themselves.
_SHARE: Final = 1.0
_READ_MOST: Final = 8
_TEXT_PARTS: Final = "text_encoder"


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """The LoRAs of a picture, with their hashes, and what their files change.

    They are merged in the order of their hashes, whatever order they were asked for in.
    """

    loras: tuple[Lora, ...]
    adapters: tuple[Adapter, ...]

    @property
    def key(self) -> Hashable:
        """Return what has to agree within one call of the network."""
        return tuple((lora.sha256, lora.weight) for lora in self.loras)

    @property
    def used(self) -> list[UsedLora]:
        """Return the LoRAs as they stand in a recipe."""
        return [
            UsedLora(name=lora.name, weight=lora.weight, sha256=str(lora.sha256))
            for lora in self.loras
        ]

    @property
    def text_key(self) -> Hashable:
        """Return the same for a call of the text encoders; None where these do not change."""
        reads = any(part.startswith(_TEXT_PARTS) for a in self.adapters for part in a.parts)
        return self.key if reads else None

    def changes(self) -> dict[tuple[str, str], list[tuple[Change, float]]]:
        """Return the changes of each layer of each part, each with its weight."""
        found: dict[tuple[str, str], list[tuple[Change, float]]] = defaultdict(list)
        for lora, adapter in zip(self.loras, self.adapters, strict=True):
            for part, layer, change in adapter.changes():
                found[part, layer].append((change, lora.weight))
        return found


class _Merged(NamedTuple):
    """A model with LoRAs merged in, and the bytes of the merged weights."""

    model: Model
    size: int


class AdaptedModels:
    """A model with the LoRAs of `library`; the latest combinations stay in memory."""

    def __init__(self, model: Model, library: LoraLibrary) -> None:
        self._model = model
        self._library = library
        self._read: OrderedDict[str, Adapter] = OrderedDict()
        self._merged: OrderedDict[Hashable, _Merged] = OrderedDict()

    def find(self, loras: Sequence[Lora]) -> Adaptation | None:
        """Return the LoRAs of a request, read and checked; None for none.

        Raises:
            LoraError: there is no such LoRA, or it cannot be used with this model.
        """
        if not loras:
            return None
        found = sorted(map(self._find, loras), key=lambda pair: str(pair[0].sha256))
        return Adaptation(tuple(lora for lora, _ in found), tuple(a for _, a in found))

    def model(self, adaptation: Adaptation | None) -> Model:
        """Return the model with LoRAs merged in.

        Raises:
            OutOfMemory: it does not fit, not even alone.
            LoraError: the numbers overflow.
        """
        if adaptation is None:
            return self._model
        key = adaptation.key
        if key not in self._merged:
            self._merged[key] = self._fitting(adaptation)
            self._drop_surplus()
        self._merged.move_to_end(key)
        return self._merged[key].model

    def _drop_surplus(self) -> None:
        """Drop the combinations that were not used for longest; the latest one always stays."""
        own = sum(_bytes(network) for network in self._model.adaptable.values())
        while len(self._merged) > 1 and (
            len(self._merged) > _MERGED_MOST
            or sum(merged.size for merged in self._merged.values()) > _SHARE * own
        ):
            self._merged.popitem(last=False)

    def _find(self, lora: Lora) -> tuple[Lora, Adapter]:
        path, digest = self._library.file(lora)
        if digest not in self._read:
            profile = self._model.profile
            if profile.quantization is not None:
                raise LoraError(
                    f"LoRAs cannot be merged into the model {profile.name}, whose weights are "
                    "quantised; choose another model, or leave the LoRA out."
                )
            shapes = {part: dict(_weights(net)) for part, net in self._model.adaptable.items()}
            if not shapes:
                raise LoraError(
                    f"LoRAs cannot be used with the model {self._model.profile.name}; choose "
                    "another model, or leave the LoRA out."
                )
            adapter = read_adapter(
                path, lora.name, shapes, self._model.convert_lora, self._model.profile.name
            )
            # Hashed again: the file may have been replaced while it was read.
            _, again = self._library.file(replace(lora, sha256=digest))
            self._read[again] = adapter
            while len(self._read) > _READ_MOST:
                self._read.popitem(last=False)
        self._read.move_to_end(digest)
        return replace(lora, sha256=digest), self._read[digest]

    def _fitting(self, adaptation: Adaptation) -> _Merged:
        device = self._model.device
        merged = attempt(lambda: self._merge(adaptation), device)
        if merged is None:
            log.warning("Out of memory at merging LoRAs; other combinations are dropped")
            self._merged.clear()
            release(device)
            merged = attempt(lambda: self._merge(adaptation), device)
        if merged is None:
            raise OutOfMemory
        return merged

    def _merge(self, adaptation: Adaptation) -> _Merged:
        layers: dict[str, dict[str, nn.Module]] = defaultdict(dict)
        networks, size = self._model.adaptable, 0
        for (part, name), changes in adaptation.changes().items():
            layer = networks[part].get_submodule(name)
            weight = merge(_weight(layer), changes)
            layers[part][name] = with_weight(layer, weight)
            size += weight.numel() * weight.element_size()
        changed = {part: with_layers(networks[part], own) for part, own in layers.items()}
        return _Merged(self._model.adapted(changed), size)


def _bytes(network: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())


def _weight(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 - only such layers are found
    return weight


def _weights(network: nn.Module) -> Iterator[tuple[str, torch.Size]]:
    """Yield the layers of a network that have a weight, with its shape."""
    for name, module in network.named_modules():
        if is_weighted(module):
            yield name, _weight(module).shape
