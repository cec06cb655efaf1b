"""Finding the jobs and pictures that a person names, if the person may see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import discord
from discord.http import HTTPClient

from generation.values.recipe import Recipe
from storage.errors import PictureMissing
from storage.history import History
from storage.jobs import JobStore
from storage.records import HistoryEntry, Job, StoredImage
from storage.states import UNFINISHED, JobStatus

from ..delivery.presence import is_gone
from ..errors import MissingInput, NotVisible
from ..jobs.removals import Removals
from ..permissions.ages import Ages, Made
from ..permissions.members import Members, check_clicked
from ..requests.reference import ImageReference
from ..ui.actions import command_of
from .concurrency import NewestOnly
from .requester import Requester

# How many of a person's latest jobs are searched for those that may be suggested.
_SEARCHED: Final = 400


class Lookup:
    """Finds jobs and pictures, and checks that the requester may see them in this channel.

    All methods raise NotVisible for a picture that does not exist, was deleted, or is not for the
    requester. All but `find_removable` raise AgeRestricted for a picture that is not for the
    channel.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        history: History,
        removals: Removals,
        members: Members,
        ages: Ages,
        http: HTTPClient,
    ) -> None:
        self._store = store
        self._history = history
        self._removals = removals
        self._members = members
        self._ages = ages
        self._http = http
        self._typing = NewestOnly()

    async def check_button(
        self, interaction: discord.Interaction[Any], job_id: int, token: str | None
    ) -> Job:
        """Return the job of the clicked button, without the picture that it starts from.

        Raises:
            UnknownButton: the button belongs to a job of another database.
        """
        job = await self._store.record(job_id)
        return check_clicked(job, token, interaction.message)

    async def find_job(self, job_id: int, requester: Requester) -> Job:
        """Return a job that the requester may see."""
        found = await self._store.get(job_id)
        return await self._visible(found, requester, str(job_id))

    async def find_record(self, job_id: int, requester: Requester) -> Job:
        """Return a job that the requester may see, without the picture that it starts from."""
        found = await self._store.record(job_id)
        return await self._visible(found, requester, str(job_id))

    async def find_rerunnable(self, job_id: int, requester: Requester) -> Job:
        """Return a job that the requester may run again.

        Raises:
            MissingInput: the uploads that the job needs were not kept.
        """
        try:
            return await self.find_job(job_id, requester)
        except PictureMissing as error:
            job = await self._store.record(job_id)
            if job is None or job.status not in (JobStatus.CANCELLED, JobStatus.FAILED):
                raise
            raise MissingInput(
                f"The picture that job {job_id} started from was not kept, since the job made no "
                f"pictures; send it again with /{command_of(job)}."
            ) from error

    async def find_image(
        self, reference: ImageReference, requester: Requester
    ) -> tuple[Job, StoredImage]:
        """Return the picture that `reference` names, after its job."""
        found = await self._store.get(reference.job_id)
        job = await self._visible(found, requester, str(reference))
        stored = await self._store.image(reference.job_id, reference.number)
        if stored is None:
            raise NotVisible(str(reference))
        return job, stored

    async def first_recipe(self, job: Job) -> Recipe | None:
        """Return the recipe of a job's first picture that is not deleted, if there is one."""
        images = await self._store.images(job.id)
        return next((image.recipe for image in images if not image.deleted), None)

    async def find_removable(self, job_id: int, requester: Requester) -> Job:
        """Return a job that the requester may remove.

        Raises:
            NotAllowed: somebody else asked for the job, and the requester is no moderator.
        """
        person, channel_id = requester.person, requester.channel_id
        found = await self._store.record(job_id)
        job = self._members.check_may_see(found, person, channel_id, str(job_id))
        self._members.check_may_remove(job, person, channel_id)
        return job

    async def check_is_there(self, job_id: int, what: str) -> None:
        """Return only if the job's message is not known to be deleted; delete the job if it is.

        The message may have been deleted while the bot had no connection.

        Raises:
            NotVisible: the message is gone.
        """
        job = await self._store.record(job_id)
        if job is not None and not job.deleted and await is_gone(self._http, job):
            await self._removals.job_gone(job)
            raise NotVisible(what)

    async def pictures_of(self, job: Job) -> int:
        """Return how many pictures a job has; 0 while the job is not finished."""
        if job.status in UNFINISHED:
            return 0
        return len(await self._store.images(job.id))

    async def has_pictures(self, job: Job) -> bool:
        """Return whether a job has pictures, delivered or not."""
        if job.status is JobStatus.FAILED:
            # The delivery alone may have failed.
            return bool(await self._store.images(job.id))
        return job.status in (JobStatus.GENERATED, JobStatus.DELIVERED)

    async def parent(self, job: Job) -> StoredImage | None:
        """Return the picture that a job varies, if there is one."""
        return await self._store.parent(job)

    async def history(self, user_id: int, query: str, limit: int) -> list[HistoryEntry]:
        """Return at most `limit` of a person's own jobs that match, in any channel."""
        return await self._history.search(user_id, query, limit)

    async def shown(
        self, entries: Sequence[HistoryEntry], requester: Requester
    ) -> list[HistoryEntry]:
        """Return those entries of the requester's history that this channel may show."""
        await self._fetch_ages(entries, requester)
        may_show, is_restricted = self._ages.may_show, requester.age_restricted
        return [entry for entry in entries if may_show(entry, is_restricted_here=is_restricted)]

    async def suggestions(self, requester: Requester, query: str, limit: int) -> list[HistoryEntry]:
        """Return at most `limit` of the requester's own jobs that match and may be shown here.

        Returns nothing if a newer request of the same person arrived first.
        """
        found = await self._typing.do(
            requester.person.id, lambda: self._suggestions(requester, query, limit)
        )
        return found or []

    async def _suggestions(
        self, requester: Requester, query: str, limit: int
    ) -> list[HistoryEntry]:
        searched = limit
        while True:
            entries = await self.history(requester.person.id, query, searched)
            shown = await self.shown(entries, requester)
            if len(shown) >= limit or len(entries) < searched or searched >= _SEARCHED:
                return shown[:limit]
            searched = min(searched * 4, _SEARCHED)

    async def _visible(self, job: Job | None, requester: Requester, what: str) -> Job:
        found = self._members.check_may_see(job, requester.person, requester.channel_id, what)
        await self.check_age(found, requester)
        return found

    async def check_age(self, made: Made, requester: Requester) -> None:
        """Return only if the requester's channel may show and use a job, as far as ages go."""
        await self._fetch_ages([made], requester)
        self._ages.check(made, is_restricted_here=requester.age_restricted)

    async def _fetch_ages(self, made: Sequence[Made], requester: Requester) -> None:
        if not requester.age_restricted:
            places = ((job.guild_id, job.channel_id) for job in made if not job.age_restricted)
            await self._ages.fetch_unknown(places)
