"""Suggestions for the option `lora`, as a person types."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ..errors import USER_ERRORS
from ..requests.builder import RequestBuilder
from ..requests.loras import Suggestion
from ..requests.reference import ImageReference
from .concurrency import NewestOnly
from .lookup import Lookup
from .models import ModelChoice
from .requester import Requester


class LoraSuggestions:
    """Suggests the LoRAs that fit the model of a command.

    Headers of files are read on one thread at a time. So people who type leave the other threads of
    the event loop to deliveries.
    """

    def __init__(self, lookup: Lookup, models: ModelChoice) -> None:
        self._lookup = lookup
        self._models = models
        self._typing = NewestOnly()
        self._reading = asyncio.Lock()

    async def suggest(
        self,
        requester: Requester,
        typed: str,
        limit: int,
        *,
        model: str | None = None,
        picture: str | None = None,
    ) -> Sequence[Suggestion]:
        """Return at most `limit` LoRAs for what is typed of the option.

        `model` is what is typed of the option `model`. Without it, the model that made `picture`
        counts, and else the default model. Returns nothing if a newer request of the same person
        arrived first.

        Raises:
            NotAllowed: the requester may use no model here.
        """
        found = await self._typing.do(
            requester.person.id, lambda: self._suggest(requester, typed, limit, model, picture)
        )
        return found or ()

    async def _suggest(
        self, requester: Requester, typed: str, limit: int, model: str | None, picture: str | None
    ) -> Sequence[Suggestion]:
        builder = await self._builder(requester, model, picture)
        async with self._reading:
            return await asyncio.to_thread(builder.loras.suggest, typed, limit)

    async def _builder(
        self, requester: Requester, model: str | None, picture: str | None
    ) -> RequestBuilder:
        if not model and picture:
            # Until a person has chosen a picture, `picture` is what they typed of it.
            with suppress(*USER_ERRORS):
                reference = ImageReference.parse(picture)
                job = await self._lookup.find_record(reference.job_id, requester)
                recipe = await self._lookup.first_recipe(job)
                return self._models.of_picture(job.request.model, requester, recipe)
        return self._models.named_or_default(model or None, requester)
