"""How much memory a model needs on a card, and which settings make the need smaller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from generation.catalog.memory.savings import Savings
from generation.catalog.profile import ModelProfile

if TYPE_CHECKING:
    import torch

_GB: Final = 1e9
# What CUDA itself takes of a card: nvidia-smi shows 0.3 to 0.6 GB for a process without tensors.
CONTEXT_BYTES: Final = 0.6 * _GB
_TILE: Final = 512
_WORTHWHILE: Final = 0.05 * _GB


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings, in words, and the bytes that they need on a card."""

    settings: str
    size: float


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model needs: the weights by part, what decoding takes besides, and the plans.

    The first plan is the settings as they are; each further plan needs less than those before it.
    """

    weights: dict[str, int]
    decoding: int
    plans: Sequence[Plan]

    def describe(self) -> str:
        """Return the needs as the part of a sentence."""
        parts = ", ".join(f"{part} {gigabytes(size)}" for part, size in self.weights.items())
        plans = "; ".join(f"{gigabytes(plan.size)} {plan.settings}" for plan in self.plans)
        return (
            f"weights {gigabytes(sum(self.weights.values()))} ({parts}) and "
            f"{gigabytes(self.decoding)} to decode a picture, so about {plans}"
        )

    def fix(self, card: float) -> str:
        """Return what to set for a card of so many bytes; nothing if it suffices as it is."""
        if self.plans[0].size <= card:
            return ""
        for plan in self.plans[1:]:
            if plan.size <= card:
                return f"for a card of {gigabytes(card)}, set it up {plan.settings}"
        return f"a card of {gigabytes(card)} is too small for this model; choose a smaller one"


def needs_of(profile: ModelProfile, dtype: torch.dtype) -> Needs:
    """Return what a model needs, from the headers of its files and from the shapes of its decoder.

    Raises:
        ModelError: a file is broken or missing.
    """
    # It loads torch.
    from generation.catalog.memory.sizes import on_card  # noqa: PLC0415
    from generation.models.loading import decoding_bytes, sizes_of  # noqa: PLC0415

    sizes = sizes_of(profile, dtype)
    decoding: dict[int | None, int] = {}
    plans: list[Plan] = []
    for words, savings in _variants(profile):
        tile = savings.decoder_tile
        if tile not in decoding:
            decoding[tile] = decoding_bytes(replace(profile, savings=savings), dtype)
        needed = on_card(sizes, savings) + decoding[tile] + CONTEXT_BYTES
        if not plans or needed < min(plan.size for plan in plans) - _WORTHWHILE:
            plans.append(Plan(words, needed))
    single = replace(profile.savings, offload="none")
    weights = {part: on_card({part: one}, single) for part, one in sizes.items()}
    return Needs(weights, decoding[profile.savings.decoder_tile], plans)


def _variants(profile: ModelProfile) -> Iterator[tuple[str, Savings]]:
    """Yield the settings as they are, and others that may need less, the better ones first."""
    as_set = profile.savings
    yield "as it is set", as_set
    if as_set.quantize is None:
        yield 'with quantize = "int8"', replace(as_set, quantize="int8")
    yield 'with offload = "model"', replace(as_set, offload="model")
    needs_tiles = profile.native_size > _TILE and as_set.decoder_tile is None
    tiled = f" and vae_tile = {_TILE}" if needs_tiles else ""
    if tiled:
        as_set = replace(as_set, decoder_tile=_TILE)
        yield f'with offload = "model"{tiled}', replace(as_set, offload="model")
    if as_set.quantize is None:
        both = replace(as_set, offload="model", quantize="int8")
        yield f'with quantize = "int8", offload = "model"{tiled}', both
    if profile.quantization is None:
        yield f'with offload = "sequential"{tiled}', replace(as_set, offload="sequential")


def gigabytes(size: float) -> str:
    """Return bytes as GB with one digit."""
    return f"{size / _GB:.1f} GB"
