"""Which LoRAs a request is for: those of an option, and those that its prompt names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from generation.catalog.addons.loras import LoraLibrary
from generation.catalog.profile import ModelProfile
from generation.errors import LoraError, ModelError
from generation.models.adapters.offering import Size, may_fit, weight_sizes
from generation.models.locate import layout_of
from generation.values.inversion import Inversion, named_in
from generation.values.lora import Lora, LoraTag, listed_tags, merged, split_tags
from generation.values.recipe import Recipe


class Reading(NamedTuple):
    """A prompt without its LoRAs, and the LoRAs of the request."""

    prompt: str
    loras: tuple[Lora, ...]


class Suggestion(NamedTuple):
    """What may be put into the option, and the trigger words of the last LoRA in it."""

    text: str
    triggers: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return the text for people, with the trigger words."""
        return f"{self.text} ({', '.join(self.triggers)})" if self.triggers else self.text


class LoraOptions:
    """Finds the LoRAs of requests in the operator's library."""

    def __init__(self, library: LoraLibrary, profile: ModelProfile) -> None:
        self._library = library
        self._profile = profile
        self._sizes: frozenset[Size] | None = None

    def suggest(self, typed: str, limit: int) -> list[Suggestion]:
        """Return at most `limit` LoRAs that may fit the model, for what is typed of an option.

        The option may name several; the last one is looked for in names and trigger words. Headers
        of files are read, so this belongs on a thread.
        """
        before, comma, last = typed.rpartition(",")
        wanted = LoraTag.of(last).name.casefold()
        taken = {tag.name.casefold() for tag in listed_tags(before)}
        try:
            known = self._library.all()
            sizes = self._weight_sizes()
        except (LoraError, ModelError):
            return []
        found = [
            lora
            for name, lora in known.items()
            if name not in taken
            and wanted in " ".join((name, *lora.triggers)).casefold()
            and may_fit(lora.path, sizes)
        ]
        found.sort(key=lambda lora: not lora.name.casefold().startswith(wanted))
        start = f"{before.strip()}{comma} " if comma else ""
        return [Suggestion(start + lora.name, lora.triggers) for lora in found[:limit]]

    def _weight_sizes(self) -> frozenset[Size]:
        if self._sizes is None:
            folder = self._profile.folder
            self._sizes = weight_sizes(folder, layout_of(folder))
        return self._sizes

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


def find_inversions(library: LoraLibrary, *texts: str) -> tuple[Inversion, ...]:
    """Return the textual inversions that texts name as words.

    Raises:
        LoraError: the folder cannot be read.
    """
    names = [each.name for each in library.all().values()]
    return tuple(Inversion(name) for name in named_in(texts, names))


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
