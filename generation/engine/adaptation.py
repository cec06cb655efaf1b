"""A model with LoRAs merged in: which there are, and which of them stay in memory.

The merged layers of a combination are copies; everything else is shared with the model. So a change
from one combination to another costs nothing while both are in memory. A combination that had to
leave is merged again when the next step needs it, from the same numbers to the same bits.

Combinations that images on their way need leave last, since each of their steps would merge again.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import nn

from ..catalog.addons.loras import NO_INVERSIONS, LoraLibrary
from ..catalog.profile import ModelProfile
from ..errors import LoraError, OutOfMemory
from ..models.adapters.adapter import Adapter, Change
from ..models.adapters.grafting import with_layers
from ..models.adapters.merging import merge
from ..models.adapters.reading import read_adapter
from ..models.family import Model
from ..models.networks.deterministic import is_weighted, with_weight
from ..models.text.inversions import read_inversion, words
from ..values.inversion import Inversion, replaced
from ..values.lora import Lora
from ..values.recipe import UsedInversion, UsedLora
from .memory import Room, attempt, available, release

log = logging.getLogger(__name__)

_MERGED_MOST: Final = 16
# So many combinations stay even in little memory: with one, two people would merge at each step.
_MERGED_LEAST: Final = 2
_READ_MOST: Final = 8
# What stands for one vector; the text of an inversion may be cut behind any of them.
_WORDS: Final = re.compile(r"<\|inversion-(?P<number>[0-9]{1,2})-(?:0|(?P<more>[0-9]{1,2}))\|>")
_TEXT_PARTS: Final = "text_encoder"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Adaptation:
    """The LoRAs and the textual inversions of a picture, with their hashes, and what they hold.

    LoRAs are merged in the order of their hashes, whatever order they were asked for in. `vectors`
    are those of each inversion by text encoder.
    """

    loras: tuple[Lora, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    inversions: tuple[Inversion, ...] = ()
    vectors: tuple[Mapping[str, torch.Tensor], ...] = ()

    @property
    def key(self) -> Hashable:
        """Return what has to agree within one call of the network; None without LoRAs."""
        return tuple((lora.sha256, lora.weight) for lora in self.loras) or None

    @property
    def used_loras(self) -> list[UsedLora] | None:
        """Return the LoRAs as they stand in a recipe."""
        return [
            UsedLora(name=lora.name, weight=lora.weight, sha256=str(lora.sha256))
            for lora in self.loras
        ] or None

    @property
    def used_inversions(self) -> list[UsedInversion] | None:
        """Return the textual inversions as they stand in a recipe."""
        return [
            UsedInversion(name=each.name, sha256=str(each.sha256)) for each in self.inversions
        ] or None

    @property
    def changes_texts(self) -> bool:
        """Return whether a LoRA changes a text encoder."""
        return any(part.startswith(_TEXT_PARTS) for a in self.adapters for part in a.parts)

    @property
    def text_key(self) -> Hashable:
        """Return what a text's embedding depends on beside the text; None for the model alone."""
        names = tuple((each.name.casefold(), each.sha256) for each in self.inversions)
        key = self.key if self.changes_texts else None
        return None if key is None and not names else (key, names)

    def written(self, text: str) -> str:
        """Return a text with the words for vectors in place of the names of inversions.

        A person may have typed such a word. Then a space takes the word's place, since only names
        stand for vectors.
        """
        if not self.inversions:
            return text
        by_name = {
            each.name: words(number, len(next(iter(self.vectors[number].values()))))
            for number, each in enumerate(self.inversions)
        }
        return replaced(_WORDS.sub(" ", text), by_name, by_name.__getitem__)

    def unwritten(self, text: str) -> str:
        """Return a text, or its end, as it was before `written`."""
        return _WORDS.sub(self._name, text)

    def _name(self, word: re.Match[str]) -> str:
        """Return the name that the word for a vector came from; of several words only the first."""
        number = int(word["number"])
        if number >= len(self.inversions):
            return word[0]
        return "" if word["more"] else self.inversions[number].name

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
    """A model with LoRAs of `library` and textual inversions; merged ones stay in memory.

    Together they take as much memory as the networks, or more while at least as much is left.
    `room` are the other models, which leave the memory where it does not suffice.
    """

    def __init__(
        self,
        model: Model,
        library: LoraLibrary,
        inversions: LoraLibrary = NO_INVERSIONS,
        room: Room | None = None,
    ) -> None:
        self._model = model
        self._library = library
        self._inversions = inversions
        self._latest: tuple[Hashable, Model] | None = None
        self._read: OrderedDict[str, Adapter] = OrderedDict()
        # The least recently used first.
        self._merged: OrderedDict[Hashable, _Merged] = OrderedDict()
        self._room = room or Room()
        # Images on their way keep these alive.
        self._alive: weakref.WeakSet[Adaptation] = weakref.WeakSet()

    def find(
        self, loras: Sequence[Lora], inversions: Sequence[Inversion] = ()
    ) -> Adaptation | None:
        """Return the LoRAs and inversions of a request, read and checked; None for none.

        Raises:
            LoraError: there is no such file, or it cannot be used with this model.
        """
        if not loras and not inversions:
            return None
        _check_is_plain(self._model.profile)
        found = sorted(map(self._find, loras), key=lambda pair: str(pair[0].sha256))
        vectors = list(map(self._find_inversion, inversions))
        return Adaptation(
            loras=tuple(lora for lora, _ in found),
            adapters=tuple(adapter for _, adapter in found),
            inversions=tuple(inversion for inversion, _ in vectors),
            vectors=tuple(own for _, own in vectors),
        )

    def text_model(self, adaptation: Adaptation | None) -> Model:
        """Return the model that reads the texts of a picture.

        Raises:
            OutOfMemory: it does not fit, not even alone.
            LoraError: the numbers overflow.
        """
        if adaptation is None:
            return self._model
        model = self.model(adaptation if adaptation.changes_texts else None)
        if not adaptation.vectors:
            return model
        if self._latest is None or self._latest[0] != adaptation.text_key:
            # Its table of tokens is large, so only the latest one stays.
            self._latest = None
            self._latest = adaptation.text_key, model.with_inversions(adaptation.vectors)
        return self._latest[1]

    def model(self, adaptation: Adaptation | None) -> Model:
        """Return the model with LoRAs merged in.

        Raises:
            OutOfMemory: it does not fit, not even alone.
            LoraError: the numbers overflow.
        """
        if adaptation is None or (key := adaptation.key) is None:
            return self._model
        self._alive.add(adaptation)
        if key not in self._merged:
            self._merged[key] = self._fitting(adaptation)
            self._drop_surplus()
        self._merged.move_to_end(key)
        return self._merged[key].model

    def make_room(self) -> bool:
        """Drop merged LoRAs, or else another model, that no image needs; return False for none."""
        return self._drop(self._unused()) or self._room.drop_other(only_idle=True)

    def make_room_for(self, adaptation: Adaptation | None) -> bool:
        """Drop what images need, too, but not `adaptation`; return False if there is nothing."""
        others = self._merged.keys() - {None if adaptation is None else adaptation.key}
        return self._drop(others) or self._room.drop_other(only_idle=False)

    def _unused(self) -> list[Hashable]:
        """Return the combinations that no image needs, the least recently used first."""
        needed = {adaptation.key for adaptation in self._alive}
        return [key for key in self._merged if key not in needed]

    def _drop(self, keys: Collection[Hashable]) -> bool:
        """Drop merged combinations, and return whether there were any."""
        for key in keys:
            del self._merged[key]
        if keys:
            # The text encoder of the latest texts may have the layers of a combination.
            self._latest = None
            release(self._model.device)
        return bool(keys)

    def _drop_surplus(self) -> None:
        """Drop combinations until the others may stay; the latest one always stays."""
        own = sum(_bytes(network) for network in self._model.adaptable.values())
        while len(self._merged) > _MERGED_LEAST and (
            len(self._merged) > _MERGED_MOST
            or (
                sum(merged.size for merged in self._merged.values()) > own
                and available(self._model.device) < own
            )
        ):
            *others, latest = self._merged
            unused = [key for key in self._unused() if key != latest]
            # Images take their steps in turn: the one of the last call is needed again last.
            self._drop([unused[0] if unused else others[-1]])

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

    def _find_inversion(self, inversion: Inversion) -> tuple[Inversion, Mapping[str, torch.Tensor]]:
        path, digest = self._inversions.file(inversion)
        found = replace(inversion, sha256=digest)
        widths, model = self._model.inversion_widths, self._model.profile.name
        vectors = read_inversion(path, inversion.name, widths, model)
        # Hashed again: the file may have been replaced while it was read.
        self._inversions.file(found)
        return found, vectors

    def _fitting(self, adaptation: Adaptation) -> _Merged:
        device = self._model.device
        merged = attempt(lambda: self._merge(adaptation), device)
        while merged is None and (self.make_room() or self.make_room_for(adaptation)):
            log.warning("Out of memory at merging LoRAs; others, or another model, were dropped")
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


def _check_is_plain(profile: ModelProfile) -> None:
    """Refuse a model whose layers cannot be copied and changed.

    Raises:
        LoraError: the weights are quantised, or wait in main memory until a network computes.
    """
    # Changed copies would need hooks of their own to be brought to the device.
    is_offloaded = profile.savings.offload != "none"
    if is_offloaded or profile.quantization is not None:
        state = "offloaded" if is_offloaded else "quantised"
        raise LoraError(
            f"LoRAs and embeddings cannot be used with the model {profile.name} while it is "
            f"{state}; leave them out, or choose another model."
        )


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
