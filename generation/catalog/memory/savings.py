"""The settings by which a model takes less memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Quantize: TypeAlias = Literal["int8"]
Offload: TypeAlias = Literal["none", "model", "sequential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """How a model takes less memory than its plain weights and whole pictures would.

    With `quantize` the matrices of the text encoders and of the denoiser are stored in 8 bits. With
    `offload` the networks stay in main memory: `model` brings one of them at a time to the card,
    `sequential` one layer at a time. `decoder_tile` is the edge, in pixels, of the tiles in which
    larger pictures are decoded. With `decoder_slicing` pictures are decoded one by one.
    """

    quantize: Quantize | None = None
    offload: Offload = "none"
    decoder_tile: int | None = None
    decoder_slicing: bool = False


NO_SAVINGS: Final = Savings()
