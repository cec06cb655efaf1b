"""The prompt in the text that AUTOMATIC1111's programs write into their pictures.

The form of the text is that of `parse_generation_parameters` in AUTOMATIC1111's
`modules/infotext_utils.py`: the prompt, a line `Negative prompt: ...`, and a line
`Steps: 20, Sampler: ...`. The first two may have several lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..values.request import PROMPT_LENGTH

_NEGATIVE: Final = "Negative prompt:"
_SETTINGS: Final = "Steps: "


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a picture, each at most as long as a prompt may be."""

    prompt: str
    negative_prompt: str = ""


def parse_infotext(text: str) -> Prompts | None:
    """Return the prompts in a text of AUTOMATIC1111's form, or None if the text has none."""
    lines = text.strip().split("\n")
    ends = [at for at, line in enumerate(lines) if line.lstrip().startswith(_SETTINGS)]
    if ends:
        lines = lines[: ends[-1]]
    starts = [at for at, line in enumerate(lines) if line.lstrip().startswith(_NEGATIVE)]
    middle = starts[0] if starts else len(lines)
    unwanted = "\n".join(lines[middle:]).lstrip().removeprefix(_NEGATIVE)
    return prompts("\n".join(lines[:middle]), unwanted)


def prompts(prompt: str, negative_prompt: str) -> Prompts | None:
    """Return both texts as valid prompts, or None if nothing is left of the first."""
    wanted, unwanted = _usable(prompt), _usable(negative_prompt)
    return Prompts(wanted, unwanted) if wanted else None


def _usable(text: str) -> str:
    """Return `text` as a valid prompt: without invalid characters, and not too long."""
    text = text.encode("utf-8", "ignore").decode().replace("\0", "").strip()
    if len(text) <= PROMPT_LENGTH:
        return text
    shortened = text[:PROMPT_LENGTH]
    return (shortened.rpartition(",")[0] or shortened.rpartition(" ")[0] or shortened).strip()
