"""Which LoRAs a request is for: those of an option, and those that its prompt names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from generation.catalog.loras import LoraLibrary
from generation.values.lora import Lora, LoraTag, merged, split_tags
from generation.values.recipe import Recipe


class Reading(NamedTuple):
    """A prompt without its LoRAs, and the LoRAs of the request."""

    prompt: str
    loras: tuple[Lora, ...]


class LoraOptions:
    """Finds the LoRAs of requests in the operator's library."""

    def __init__(self, library: LoraLibrary) -> None:
        self._library = library

    def read(self, prompt: str, chosen: Sequence[LoraTag]) -> Reading:
        """Return a prompt as the model reads it, and the LoRAs that it names and that are chosen.

        A weight in the prompt counts more than one that is chosen.

        Raises:
            LoraError: there is no such LoRA.
            InvalidRequest: a weight is no number, or out of range.
        """
        text, tags = split_tags(prompt)
        found = [self._known(tag) for tag in (*chosen, *tags)]
        return Reading(text, merged(found))

    def _known(self, tag: LoraTag) -> Lora:
        listed = self._library.named(tag.name)
        return LoraTag(listed.name, tag.weight).lora(listed.weight)


def without_tags(prompt: str, loras: Sequence[Lora]) -> str:
    """Return the prompt of a request with these LoRAs as the model reads it.

    In a request from before there were LoRAs, what looks like one is text.
    """
    return split_tags(prompt)[0] if loras else prompt


def chosen_for(recipe: Recipe) -> tuple[LoraTag, ...]:
    """Return the LoRAs of a picture that its prompt does not name: an option chose them."""
    _, tags = split_tags(recipe.prompt)
    in_prompt = {tag.name.casefold() for tag in tags}
    return tuple(
        LoraTag(used["name"], repr(used["weight"]))
        for used in recipe.loras or ()
        if used["name"].casefold() not in in_prompt
    )
