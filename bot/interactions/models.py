"""Which model a person's request goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from generation.values.recipe import Recipe

from ..errors import BotError, NotAllowed
from ..permissions.models import check_may_use, may_use
from ..requests.builder import RequestBuilder
from ..requests.models import ModelOffer, OfferedModel
from .requester import Requester


class ModelChoice:
    """Chooses the model of a request, among those that the requester may use here.

    `sha256_of` returns the hash of a model by its name, if it is known.
    """

    def __init__(self, offer: ModelOffer, sha256_of: Callable[[str], str | None]) -> None:
        self._offer = offer
        self._sha256_of = sha256_of

    def usable(self, requester: Requester) -> list[OfferedModel]:
        """Return the models that the requester may use here, the default first."""
        return [
            model
            for model in self._offer
            if may_use(model.listed, requester.person, requester.guild_id)
        ]

    def suggestions(
        self, requester: Requester, typed: str, limit: int, *, that_edit: bool = False
    ) -> Sequence[OfferedModel]:
        """Return at most `limit` usable models whose names have `typed` in them.

        With `that_edit` they can edit pictures by instruction.
        """
        folded = typed.strip().casefold()
        found = [
            model
            for model in self.usable(requester)
            if folded in model.name.casefold() and (model.profile.most_references or not that_edit)
        ]
        found.sort(key=lambda model: not model.name.casefold().startswith(folded))
        return found[:limit]

    def named(self, name: str | None, requester: Requester) -> RequestBuilder:
        """Return the builder for the model called `name`.

        None stands for the default model, or else the first that the requester may use here.

        Raises:
            NoSuchModel: there is no such model on this machine.
            NotAllowed: the requester may not use it here, or may use none.
        """
        if name is None:
            usable = self.usable(requester)
            if not usable:
                check_may_use(self._offer.default.listed, requester.person, requester.guild_id)
                raise NotAllowed("You may use none of the models here; ask the operator.")
            return usable[0].builder
        return self._checked(self._offer.find(name), requester)

    def editor(self, name: str | None, requester: Requester) -> RequestBuilder:
        """Return the builder for the model called `name`, to edit pictures.

        None stands for the first that can edit, of those that the requester may use here.

        Raises:
            NoSuchModel: there is no such model on this machine.
            NotAllowed: the requester may not use it here, or may use none that can edit.
        """
        if name is not None:
            return self.named(name, requester)
        for model in self.usable(requester):
            if model.profile.most_references:
                return model.builder
        raise NotAllowed("You may use none of the models here that can edit; ask the operator.")

    def named_or_default(self, name: str | None, requester: Requester) -> RequestBuilder:
        """Return the builder for the model called `name`; the default one's for a wrong name.

        Until a person has chosen a suggestion, `name` is what they typed of it.

        Raises:
            NotAllowed: the requester may use no model here.
        """
        with suppress(BotError):
            return self.named(name, requester)
        return self.named(None, requester)

    def of_picture(
        self, model: str | None, requester: Requester, recipe: Recipe | None = None
    ) -> RequestBuilder:
        """Return the builder for the model that made a picture.

        `model` is the name in the picture's job; see `ModelOffer.maker_of`.

        Raises:
            NoSuchModel: the model is not here any more.
            NotAllowed: the requester may not use it here.
        """
        return self._checked(self._offer.maker_of(model, recipe, self._sha256_of), requester)

    def _checked(self, model: OfferedModel, requester: Requester) -> RequestBuilder:
        check_may_use(model.listed, requester.person, requester.guild_id)
        return model.builder
