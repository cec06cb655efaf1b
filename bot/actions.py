"""What can be done to a picture, once for commands, buttons and reactions."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import discord
from PIL import Image

from generation.request import GenerationRequest
from storage.errors import PictureMissing
from storage.records import HistoryEntry, Job, JobKind, JobStatus, NewJob, StoredImage

from .access import check_clicked, check_may_remove, check_may_see
from .ages import Made, restriction
from .concurrency import NewestOnly
from .errors import MissingInput, NotVisible
from .memory import PictureMemory
from .presence import is_gone
from .requests import ImageReference, Wishes

if TYPE_CHECKING:
    from .client import ImagineBot

Person = discord.User | discord.Member
_NO_WISHES: Final = Wishes()
# Of somebody's latest jobs, when most of them may not be suggested.
_LOOKED_THROUGH: Final = 400


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for something, where, and by which interaction or reaction.

    `age_restricted` says whether only adults may open that channel, as far as that is known.
    """

    person: Person
    guild_id: int | None
    channel_id: int
    origin: str
    age_restricted: bool = False

    def order(
        self, kind: JobKind, request: GenerationRequest, *, parent_image_id: int | None = None
    ) -> NewJob:
        """Return the job to submit for this person."""
        return NewJob(
            kind=kind,
            user_id=self.person.id,
            guild_id=self.guild_id,
            channel_id=self.channel_id,
            request=request,
            parent_image_id=parent_image_id,
            origin=self.origin,
            age_restricted=self.age_restricted,
        )


def asker_of(interaction: discord.Interaction[ImagineBot]) -> Asker:
    """Return who asks by this interaction, and where."""
    return Asker(
        person=interaction.user,
        guild_id=interaction.guild_id,
        channel_id=interaction.channel_id or interaction.user.id,
        origin=f"interaction:{interaction.id}",
        age_restricted=restriction(interaction.channel) is True,
    )


class Actions:
    """Turns "again", "vary" and "away" into orders and deeds, for anyone who asks and may.

    All methods raise NotVisible for a picture that does not exist, was deleted, or is not for
    the person, and all but `find_removable` AgeRestricted for one that is not for the channel.
    """

    def __init__(self, bot: ImagineBot, memory: PictureMemory) -> None:
        self._bot = bot
        self._memory = memory
        self._typing = NewestOnly()

    async def check_button(
        self, interaction: discord.Interaction[ImagineBot], job_id: int, token: str | None
    ) -> None:
        """Return only if the clicked button is of the job with this id in this database.

        Raises:
            UnknownButton: it is of another.
        """
        job = await self._bot.service.jobs.record(job_id)
        check_clicked(job, token, interaction.message)

    async def find_job(self, job_id: int, asker: Asker) -> Job:
        """Return a job that the asker may see."""
        found = await self._bot.service.jobs.get(job_id)
        return await self._visible(found, asker, str(job_id))

    async def find_shown(self, job_id: int, asker: Asker) -> Job:
        """Return a job that the asker may see; its source is not read, and may be gone."""
        found = await self._bot.service.jobs.record(job_id)
        return await self._visible(found, asker, str(job_id))

    async def _visible(self, job: Job | None, asker: Asker, what: str) -> Job:
        found = check_may_see(self._bot, job, asker.person, asker.channel_id, what)
        await self.check_age(found, asker)
        return found

    async def check_age(self, made: Made, asker: Asker) -> None:
        """Return only if what was made may be shown or used where the asker is."""
        await self._learn_ages([made], asker)
        self._bot.ages.check(made, is_restricted_here=asker.age_restricted)

    async def shown(self, entries: Sequence[HistoryEntry], asker: Asker) -> list[HistoryEntry]:
        """Return the lines of the asker's own history that may be read where they ask."""
        await self._learn_ages(entries, asker)
        may_show, is_restricted = self._bot.ages.may_show, asker.age_restricted
        return [entry for entry in entries if may_show(entry, is_restricted_here=is_restricted)]

    async def _learn_ages(self, made: Sequence[Made], asker: Asker) -> None:
        if not asker.age_restricted:
            places = ((one.guild_id, one.channel_id) for one in made if not one.age_restricted)
            await self._bot.ages.learn(places)

    async def suggestions(self, asker: Asker, query: str, limit: int) -> list[HistoryEntry]:
        """Return at most `limit` of the asker's own jobs that match and may be shown here.

        None are returned for what the asker has typed on from before its turn came.
        """
        found = await self._typing.do(
            asker.person.id, lambda: self._suggestions(asker, query, limit)
        )
        return found or []

    async def _suggestions(self, asker: Asker, query: str, limit: int) -> list[HistoryEntry]:
        asked = limit
        while True:
            entries = await self._bot.service.jobs.history(asker.person.id, query, asked)
            shown = await self.shown(entries, asker)
            if len(shown) >= limit or len(entries) < asked or asked >= _LOOKED_THROUGH:
                return shown[:limit]
            asked = min(asked * 4, _LOOKED_THROUGH)

    async def find_image(self, reference: ImageReference, asker: Asker) -> StoredImage:
        """Return the record of the picture that `reference` names."""
        jobs = self._bot.service.jobs
        await self._visible(await jobs.get(reference.job_id), asker, str(reference))
        stored = await jobs.image(reference.job_id, reference.number)
        if stored is None:
            raise NotVisible(str(reference))
        return stored

    async def rerun(self, asker: Asker, job_id: int) -> NewJob:
        """Return the order for the same recipe with a new seed."""
        job = await self._find_rerunnable(job_id, asker)
        request = self._bot.desk.rerun(job.request)
        return asker.order(JobKind.RERUN, request, parent_image_id=job.parent_image_id)

    async def vary(
        self, asker: Asker, reference: ImageReference, wishes: Wishes = _NO_WISHES
    ) -> NewJob:
        """Return the order for a variation of one picture."""
        stored = await self.find_image(reference, asker)
        # As a file, as a picture, and as the pixels to start from.
        held = 3 * (3 * stored.recipe.width * stored.recipe.height)
        async with self._memory.hold(held, asker.person.id):
            picture = await asyncio.to_thread(_open, await self._bot.service.jobs.read(stored))
            # Copying a large picture takes milliseconds.
            request = await asyncio.to_thread(
                self._bot.desk.variation, stored.recipe, picture, wishes
            )
        return asker.order(JobKind.VARY, request, parent_image_id=stored.id)

    async def _find_rerunnable(self, job_id: int, asker: Asker) -> Job:
        try:
            return await self.find_job(job_id, asker)
        except PictureMissing as error:
            job = await self._bot.service.jobs.record(job_id)
            if job is None or job.status not in (JobStatus.CANCELLED, JobStatus.FAILED):
                raise
            raise MissingInput(
                f"The picture that job {job_id} started from was not kept, since nothing came of "
                "it; send it again with /vary."
            ) from error

    async def check_is_there(self, job_id: int, what: str) -> None:
        """Return only if the message of a job is not known to be deleted; if it is, so is the job.

        It may have been deleted while the bot was away.

        Raises:
            NotVisible: it is gone.
        """
        job = await self._bot.service.jobs.record(job_id)
        if job is not None and not job.deleted and await is_gone(self._bot.http, job):
            await self._bot.service.removals.job_gone(job)
            raise NotVisible(what)

    async def pictures_of(self, job: Job) -> int:
        """Return how many pictures a job has that is not under way."""
        if job.status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.GENERATED):
            return 0
        return len(await self._bot.service.jobs.images(job.id))

    async def find_removable(self, job_id: int, asker: Asker) -> Job:
        """Return a job that the asker may take away.

        Raises:
            NotAllowed: somebody else asked for it, and the person is no moderator.
        """
        found = await self._bot.service.jobs.record(job_id)
        job = check_may_see(self._bot, found, asker.person, asker.channel_id, str(job_id))
        check_may_remove(self._bot, job, asker.person, asker.channel_id)
        return job


def _open(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")
