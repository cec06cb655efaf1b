"""The options that a person gives for a picture."""

from __future__ import annotations

from dataclasses import dataclass

from generation.values.lora import LoraTag
from generation.values.request import Spacing


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """The options that a person gives for a picture; None for options that are left out.

    `scheduler` is a name as the person typed it. `model` chooses the builder
    (`bot.requests.models`), which ignores the option itself.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    scheduler: str | None = None
    spacing: Spacing | None = None
    guidance_rescale: float | None = None
    count: int | None = None
    strength: float | None = None
    model: str | None = None
    loras: tuple[LoraTag, ...] | None = None
