"""What can be made out of a picture, once for commands, buttons and reactions."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from PIL import Image

from generation.images.pillow import reference_pixels
from generation.values.pixels import Pixels
from storage.jobs import JobStore
from storage.records import JobKind, NewJob, StoredImage

from ..memory import PictureMemory
from ..requests.builder import RequestBuilder
from ..requests.options import RequestOptions
from ..requests.reference import ImageReference
from ..ui.actions import Action
from .lookup import Lookup
from .models import ModelChoice
from .requester import Requester

_NO_OPTIONS: Final = RequestOptions()
_Maker = Callable[[Requester, ImageReference], Awaitable[NewJob]]


class Actions:
    """Makes the jobs for reruns and variations of pictures that the requester may see.

    All methods raise the errors of `Lookup`, and InvalidRequest as `RequestBuilder` does.
    """

    def __init__(
        self,
        *,
        lookup: Lookup,
        models: ModelChoice,
        store: JobStore,
        memory: PictureMemory,
    ) -> None:
        self._lookup = lookup
        self._models = models
        self._store = store
        self._memory = memory
        self._makers: Mapping[JobKind | None, _Maker] = {
            JobKind.RERUN: self.rerun,
            JobKind.VARY: self.vary,
        }

    async def new_job(
        self, action: Action, requester: Requester, picture: ImageReference
    ) -> NewJob:
        """Return the new job that an action on a picture makes."""
        return await self._makers[action.kind](requester, picture)

    async def rerun(self, requester: Requester, picture: ImageReference) -> NewJob:
        """Return a new job for the recipe of the picture's job, with a new seed."""
        job = await self._lookup.find_rerunnable(picture.job_id, requester)
        builder = self._models.of_picture(
            job.request.model, requester, await self._lookup.first_recipe(job)
        )
        request = builder.rerun(job.request, guild_id=requester.guild_id)
        return requester.new_job(JobKind.RERUN, request, parent_image_id=job.parent_image_id)

    async def vary(
        self, requester: Requester, reference: ImageReference, options: RequestOptions = _NO_OPTIONS
    ) -> NewJob:
        """Return a new job for a variation of one picture."""
        job, stored = await self._lookup.find_image(reference, requester)
        builder = (
            self._models.of_picture(job.request.model, requester, stored.recipe)
            if options.model is None
            else self._models.named(options.model, requester)
        )
        # The file, the decoded picture, and the pixels to start from.
        held = 3 * (3 * stored.recipe.width * stored.recipe.height)
        async with self._memory.hold(held, requester.person.id):
            picture = await asyncio.to_thread(_open, await self._store.read(stored))
            # Copying a large picture takes milliseconds.
            request = await asyncio.to_thread(
                builder.variation,
                stored.recipe,
                picture,
                options,
                guild_id=requester.guild_id,
                references=job.request.references,
            )
        return requester.new_job(JobKind.VARY, request, parent_image_id=stored.id)

    async def reference(
        self, requester: Requester, picture: ImageReference, builder: RequestBuilder
    ) -> tuple[StoredImage, Pixels]:
        """Return one of the bot's pictures, as a reference for the model of `builder` too."""
        _, stored = await self._lookup.find_image(picture, requester)
        multiple = builder.reference_fit.multiple
        # The file, the decoded picture, and the reference.
        held = 3 * (3 * stored.recipe.width * stored.recipe.height)
        async with self._memory.hold(held, requester.person.id):
            data = await self._store.read(stored)
            read = await asyncio.to_thread(lambda: reference_pixels(_open(data), multiple))
        return stored, read


def _open(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")
