"""LoRAs: small files that change a model's weights, by name in a request and in a prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from ..errors import InvalidRequest

LORAS_MAX: Final = 8
LORA_NAME_LENGTH: Final = 100
# Nearly all are made for a weight of 1; those that move one feature go up to 5 or 8, both ways.
LORA_WEIGHT_MAX: Final = 10.0

# The places of tags, with the spaces around them.
_GAP: Final = re.compile(r" *\0(?: *\0)* *")
_CLOSING: Final = frozenset(",.;:!?)")
_TAG: Final = re.compile(r"<lora:(?P<name>[^<>:]*)(?::(?P<weight>[^<>]*))?>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA by its name, and how strongly it counts: 1 as it was trained, 0 not at all.

    With a `sha256` only a file with this hash will do; without it, whatever has the name now.

    Raises:
        InvalidRequest: a value is out of range; the sentence says which.
    """

    name: str
    weight: float = 1.0
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= LORA_NAME_LENGTH:
            raise InvalidRequest(
                "loras", f"The name of a LoRA has 1 to {LORA_NAME_LENGTH} characters; shorten it."
            )
        # Written so that NaN is refused too.
        if not abs(self.weight) <= LORA_WEIGHT_MAX:
            raise InvalidRequest(
                "loras",
                f"For the weight of the LoRA {self.name} use a number from {-LORA_WEIGHT_MAX:g} "
                f"to {LORA_WEIGHT_MAX:g}, not {self.weight!r}.",
            )

    def __str__(self) -> str:
        """Return the LoRA as it is written in a prompt."""
        return f"<lora:{self.name}:{self.weight:g}>"


@dataclass(frozen=True, slots=True)
class LoraTag:
    """A LoRA as a prompt names it; `weight` is the text behind the name, None if there is none."""

    name: str
    weight: str | None

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the LoRA in `name` or `name:weight`; a colon before no number is in the name."""
        name, _, weight = text.rpartition(":")
        try:
            float(weight)
        except ValueError:
            return cls(text.strip(), None)
        return cls(name.strip(), weight.strip()) if name.strip() else cls(text.strip(), None)

    def lora(self, default_weight: float = 1.0) -> Lora:
        """Return the LoRA that is meant; without a weight in the prompt it has the default one.

        Raises:
            InvalidRequest: the weight is no number, or out of range.
        """
        if self.weight is None:
            return Lora(self.name, default_weight)
        try:
            weight = float(self.weight)
        except ValueError:
            weight = math.nan
        if math.isnan(weight):
            raise InvalidRequest(
                "loras",
                f"The weight {self.weight!r} of the LoRA {self.name} is no number; write it as in "
                f"<lora:{self.name}:0.8>.",
            )
        return Lora(self.name, weight)


def listed_tags(text: str) -> tuple[LoraTag, ...]:
    """Return the LoRAs in an option such as `ink:0.8, wash`."""
    return tuple(LoraTag.of(piece) for piece in text.split(",") if piece.strip())


def split_tags(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """Return a prompt without its `<lora:name:weight>`, and these in their order.

    This is the syntax of AUTOMATIC1111's web UI. A prompt without a tag comes back as it is. Where
    a tag was cut out, no second space stays, and none before a comma.
    """
    tags = tuple(_tag(match) for match in _TAG.finditer(prompt) if match["name"].strip())
    return without_loras(prompt, lambda _: True), tags


def without_loras(prompt: str, is_cut: Callable[[LoraTag], bool]) -> str:
    """Return a prompt without those of its `<lora:name:weight>` for which `is_cut` is true.

    A prompt without such a tag comes back as it is.
    """

    def cut(match: re.Match[str]) -> str:
        return "\0" if match["name"].strip() and is_cut(_tag(match)) else match[0]

    pieces = _TAG.sub(cut, prompt)
    return prompt if pieces == prompt else _GAP.sub(_space, pieces).strip()


def _tag(match: re.Match[str]) -> LoraTag:
    weight = match["weight"]
    return LoraTag(match["name"].strip(), None if weight is None else weight.strip())


def _space(gap: re.Match[str]) -> str:
    """Return what stands in the place of tags: a space, if there was one between two words."""
    following = gap.string[gap.end() : gap.end() + 1]
    return " " if " " in gap[0] and following not in _CLOSING else ""


def merged(loras: Iterable[Lora]) -> tuple[Lora, ...]:
    """Return `loras` with each name once: of two with one name the later counts."""
    by_name = {lora.name.casefold(): lora for lora in loras}
    return tuple(by_name.values())


def check_loras(loras: Sequence[Lora]) -> None:
    """Check the LoRAs of a request.

    Raises:
        InvalidRequest: there are too many, or one is there twice.
    """
    check_lora_count(len(loras))
    if len({lora.name.casefold() for lora in loras}) < len(loras):
        raise InvalidRequest("loras", "A LoRA is named twice; name each one once.")


def check_lora_count(count: int) -> None:
    """Check the number of LoRAs of a request.

    Raises:
        InvalidRequest: there are too many.
    """
    if count > LORAS_MAX:
        raise InvalidRequest("loras", f"There are {count} LoRAs; use at most {LORAS_MAX}.")
