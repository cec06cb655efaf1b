"""Which LoRAs a request is for: those of an option, and those that its prompt names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from generation.catalog.addons.loras import ListedLora, LoraLibrary
from generation.catalog.profile import ModelProfile
from generation.errors import InvalidRequest, LoraError, ModelError
from generation.models.adapters.offering import Size, may_fit, weight_sizes
from generation.models.locate import layout_of
from generation.models.text.inversion_files import may_fit as may_fit_text
from generation.values.inversion import Inversion, named_in
from generation.values.lora import (
    Lora,
    LoraTag,
    check_lora_count,
    listed_tags,
    merged,
    split_tags,
    without_loras,
)
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

        A weight in the prompt counts more than one that is chosen. The folder is read once, and
        only if there are LoRAs.

        Raises:
            LoraError: there is no such LoRA.
            InvalidRequest: a weight is no number, or out of range, or there are too many LoRAs.
        """
        text, tags = split_tags(prompt)
        wanted = (*chosen, *tags)
        check_lora_count(len({tag.name.casefold() for tag in wanted}))
        known = self._library.all() if wanted else {}
        return Reading(text, merged([self._found(tag, known) for tag in wanted]))

    def of_stored(self, prompt: str) -> str:
        """Return a prompt that nobody typed here, without its LoRAs that cannot be used here.

        Raises:
            LoraError: the folder cannot be read.
        """
        if not split_tags(prompt)[1]:
            return prompt
        known = self._library.all()
        return without_loras(prompt, lambda tag: not self._is_usable(tag, known))

    def _is_usable(self, tag: LoraTag, known: Mapping[str, ListedLora]) -> bool:
        try:
            self._found(tag, known)
        except InvalidRequest:
            return False
        return True

    def _found(self, tag: LoraTag, known: Mapping[str, ListedLora]) -> Lora:
        listed = self._library.named_in(known, tag.name)
        return LoraTag(listed.name, tag.weight).lora(listed.weight)


def find_inversions(
    library: LoraLibrary, profile: ModelProfile, *texts: str
) -> tuple[Inversion, ...]:
    """Return the textual inversions for a model that texts name as words.

    A word that is the name of a file for another kind of model is a word like any other.

    Raises:
        LoraError: the folder cannot be read.
    """
    known = library.all() if profile.takes_inversions else {}
    names = {each.name: each.path for each in known.values()}
    while found := named_in(texts, names):
        others = [name for name in found if not may_fit_text(names[name], profile.inversion_widths)]
        if not others:
            break
        # Without a longer name, a shorter one in it may be meant.
        for name in others:
            del names[name]
    return tuple(Inversion(name) for name in found)


def without_tags(prompt: str, loras: Sequence[Lora]) -> str:
    """Return the prompt of a request with these LoRAs as the model reads it.

    In a request from before there were LoRAs, what looks like one is text.
    """
    return split_tags(prompt)[0] if loras else prompt


def chosen_for(recipe: Recipe) -> tuple[LoraTag, ...]:
    """Return the LoRAs of a picture, with the weights that they had."""
    return tuple(LoraTag(used["name"], repr(used["weight"])) for used in recipe.loras or ())
